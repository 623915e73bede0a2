"""Groups of clients that name the classes differently."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedfm.errors import RecipeError
from fedfm.hosts.conflicting_labels import groups_of
from fedfm.hosts.training_data import read_training
from fedfm.recipe import load_recipe
from tests.small import small_recipe

HELD_OUT = "federation.holdout=0.2"


def test_a_group_renames_its_classes_also_in_what_it_holds_out(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    before = read_training(load_recipe(recipe, [HELD_OUT]))
    after = read_training(load_recipe(recipe, [HELD_OUT, "federation.label_groups=2"]))
    assert before.train.labels is not None
    assert after.train.labels is not None
    groups = groups_of(before.federation.train, 2, 0)
    assert Counter(groups.values()) == {0: 3, 1: 3}
    for client, group in groups.items():
        for split in ("train", "holdout"):
            rows = getattr(before.federation, split)[client]
            assert np.array_equal(after.train.labels[rows], (before.train.labels[rows] + group) % 2)


def test_more_groups_than_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"federation\.label_groups: 3 groups cannot all name 2 classes differently"):
        read_training(load_recipe(small_recipe(tmp_path), ["federation.label_groups=3"]))
