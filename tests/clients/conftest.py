"""A small federation in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import Experiment, build_experiment
from tests.small import small_recipe


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    recipe = small_recipe(
        tmp_path,
        federation={"clients": 6, "per_round": 2, "rounds": 2},
        local={"batch_size": 4, "learning_rate": 0.01},
    )
    return build_experiment(load_recipe(recipe))
