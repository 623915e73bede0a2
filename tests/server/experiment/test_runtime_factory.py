from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

import fedfm
from fedfm.clients import Worker
from fedfm.errors import RecipeError
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.settings import Runtime as RuntimeSettings
from fedfm.server.experiment.build import Experiment
from fedfm.server.experiment.runtime_factory import RUNTIMES
from tests.small import small_recipe


@pytest.mark.parametrize("kind", ["flower", "ray"])
def test_a_runtime_whose_extra_is_missing_is_refused_before_anything_is_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfm.server.runs.refusals.find_spec", lambda name: None)
    recipe = fedfm.load_recipe(small_recipe(tmp_path), [f"runtime.kind={kind}"])
    with pytest.raises(RecipeError, match=f"make install EXTRAS={kind}"):
        fedfm.run(recipe)
    assert not recipe.folder.exists()


def test_a_cluster_that_is_not_there_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(experiment: Experiment, worker: Worker) -> Runtime:
        raise RecipeError("no Ray cluster can be used there", where="runtime.address")

    monkeypatch.setattr("fedfm.server.runs.refusals.find_spec", lambda name: name)
    monkeypatch.setitem(RUNTIMES, "ray", unreachable)
    recipe = fedfm.load_recipe(small_recipe(tmp_path), ["runtime={kind: ray, address: 'ray://nowhere:1'}"])
    with pytest.raises(RecipeError, match="no Ray cluster"):
        fedfm.run(recipe)
    assert not recipe.folder.exists()


def test_every_kind_of_a_recipe_is_made() -> None:
    (union, _) = get_args(RuntimeSettings)
    assert set(RUNTIMES) == {settings.model_fields["kind"].default for settings in get_args(union)}
