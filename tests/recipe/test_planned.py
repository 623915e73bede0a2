from __future__ import annotations

from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.recipe import Recipe, load_recipe
from fedfm.recipe.fields import all_keys
from fedfm.recipe.planned import PLANNED, _known, planned

STAGES = [name for name in PLANNED["updates.kind"] if name not in _known(Recipe, "updates.kind")]
TO_COME = [
    *(
        f"{key}={name}"
        for key, names in PLANNED.items()
        for name in names
        if key not in ("updates.kind", "report_to") and name not in _known(Recipe, key)
    ),
    *(f"updates=[{{kind: {name}}}]" for name in STAGES),
    "report_to=[wandb]",
    "report_to=[tensorboard, trackio]",
]


@pytest.mark.parametrize("override", TO_COME)
def test_features_to_come_are_refused_by_name_and_nothing_else_is_said(values: dict[str, Any], override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(values, [override])
    (problem,) = caught.value.problems
    assert problem.message.endswith("is not available in this version")
    assert override.startswith(problem.where.split(".")[0].split("[")[0])


def test_every_entry_is_a_key_of_the_schema() -> None:
    known = {key.where.replace("[]", "") for key in all_keys(Recipe)} | {"updates.kind"}
    assert set(PLANNED) <= known


def test_a_name_that_has_a_class_is_not_planned(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLANNED, "algorithm.name", ("fedavg", "ditto"))
    monkeypatch.setitem(PLANNED, "tune.kind", ("lora",))
    values |= {"algorithm": {"name": "fedavg"}, "tune": {"kind": "lora"}}
    assert planned(values, Recipe) == []


@pytest.mark.parametrize("value", [None, "none", [], {}, 3, [["wandb"]], {"kind": ["fedpft"]}])
def test_odd_values_are_not_taken_for_features(values: dict[str, Any], value: Any) -> None:
    for group in ("proxy", "privacy", "report_to"):
        assert not any(problem.where.startswith(group) for problem in planned(values | {group: value}, Recipe))
