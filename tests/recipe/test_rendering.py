from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedfm.algorithms import ALGORITHMS
from fedfm.recipe import Recipe, commented, dump, load_recipe
from fedfm.recipe.presets import PRESETS
from fedfm.yaml_text import parse


@pytest.mark.parametrize("write", [dump, commented])
@pytest.mark.parametrize("name", PRESETS)
def test_a_resolved_recipe_loads_back_equal(name: str, write: Any) -> None:
    recipe = load_recipe(name)
    assert load_recipe(parse(write(recipe))) == recipe


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
"""What a recipe may say: no NUL, no half of a surrogate pair."""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=TEXTS,
    lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    columns=st.lists(TEXTS, min_size=1, max_size=2),
)
def test_strings_and_floats_survive(values: dict[str, Any], path: str, lr: float, columns: list[str]) -> None:
    changed = {"model": {"path": path}, "local": {"learning_rate": lr}, "data": values["data"] | {"text": columns}}
    recipe = load_recipe(values | changed)
    for text in (dump(recipe), commented(recipe)):
        assert load_recipe(parse(text)) == recipe
        assert yaml.safe_load(text) == recipe.model_dump(mode="json")  # other readers see the same


def test_every_key_is_written(values: dict[str, Any]) -> None:
    recipe = load_recipe(values)
    assert set(parse(dump(recipe))) == set(parse(commented(recipe))) == set(Recipe.model_fields)


def test_comments_are_the_keys_help_and_choices(values: dict[str, Any]) -> None:
    text = commented(load_recipe(values))
    assert "  # Passes over the client's examples a round.\n  epochs: 1\n" in text
    assert "  # uniform | poisson | weighted | cyclic\n  sampling: uniform\n" in text
    assert f"# name: {' | '.join(ALGORITHMS)}\nalgorithm:\n" in text.replace(" |\n# ", " | ")
    assert max(map(len, text.splitlines())) <= 120
