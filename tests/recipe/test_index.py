"""The index of keys agrees with the classes."""

from __future__ import annotations

from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.recipe import commented, load_keys, load_recipe
from fedfm.recipe.index import FILE, checked_keys, schema_text
from fedfm.recipe.presets import PRESETS


def test_the_schema_is_that_of_the_classes() -> None:
    assert FILE.read_text(encoding="utf-8") == schema_text(), "run `make schema`"


@pytest.mark.parametrize("name", PRESETS)
def test_keys_values_and_help_are_those_of_the_classes(name: str) -> None:
    keys, recipe = load_keys(name), load_recipe(name)
    assert keys.model_dump() == recipe.model_dump()
    assert commented(keys) == commented(recipe)


@pytest.mark.parametrize(
    "override", ["federation.per_round=0.5", "federation.per_round=3", "evaluate.metrics=[accuracy]"]
)
def test_what_the_classes_accept_the_index_accepts(override: str) -> None:
    assert load_keys("quick", [override]).model_dump() == load_recipe("quick", [override]).model_dump()


def test_all_faulty_keys_are_told_at_once(values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        checked_keys({**values, "sed": 1, "tune": {"rr": 3}, "updates": ["clip"], "local": {"epochs": 0}})
    assert {problem.where for problem in caught.value.problems} == {"sed", "tune.rr", "updates[0]", "local.epochs"}
