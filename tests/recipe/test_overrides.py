from __future__ import annotations

import re
from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.recipe.overrides import KEPT, apply_overrides
from fedfm.runtimes.settings import RuntimeSettings


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=1", {"a": {"b": 1, "c": 2}}),
        ("a.c=1e-5", {"a": {"b": 0, "c": 1e-5}}),
        ("a.b=null", {"a": {"b": None, "c": 2}}),
        ("a.b=''", {"a": {"b": "", "c": 2}}),
        ("a.b=[x, y]", {"a": {"b": ["x", "y"], "c": 2}}),
        ("a.b=k=v", {"a": {"b": "k=v", "c": 2}}),
        ("a={b: 5}", {"a": {"b": 5}}),
        ("a.b=|", {"a": {"b": "|", "c": 2}}),
        ("a.b='", {"a": {"b": "'", "c": 2}}),
        ("a.b=~", {"a": {"b": None, "c": 2}}),
        ("d.e.f=no", {"a": {"b": 0, "c": 2}, "d": {"e": {"f": "no"}}}),
    ],
)
def test_a_dotted_key_is_set(override: str, expected: dict[str, Any]) -> None:
    before = {"a": {"b": 0, "c": 2}}
    assert apply_overrides(before, [override]) == expected
    assert before == {"a": {"b": 0, "c": 2}}


def test_later_overrides_win() -> None:
    assert apply_overrides({}, ["a.b=1", "a.b=2"]) == {"a": {"b": 2}}


@pytest.mark.parametrize("order", [("tune.kind=ia3", "tune.head=false"), ("tune.head=false", "tune.kind=ia3")])
def test_choosing_a_kind_starts_the_group_afresh(order: tuple[str, str]) -> None:
    """Of the file's keys none stay, of the overrides' keys all count, whatever their order."""
    assert apply_overrides({"tune": {"kind": "lora", "r": 16}}, order) == {"tune": {"kind": "ia3", "head": False}}


def test_naming_the_kind_that_the_file_has_starts_afresh_too(values: dict[str, Any]) -> None:
    values["algorithm"] = {"name": "fedprox", "mu": 0.5}
    assert load_recipe(values, ["algorithm.name=fedprox"]).algorithm.model_dump() == {"name": "fedprox", "mu": 0.01}
    assert load_recipe(values, ["algorithm.mu=0.25"]).algorithm.model_dump() == {"name": "fedprox", "mu": 0.25}


def test_the_name_of_the_recipe_is_no_kind(values: dict[str, Any]) -> None:
    assert load_recipe(values, ["name=other"]).model.path == "builtin:tiny-bert"


def test_a_group_that_the_file_leaves_out(values: dict[str, Any]) -> None:
    assert load_recipe(values, ["tune.r=4", "federation.rounds=3"]).tune.model_dump()["r"] == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("federation.rounds", "written KEY=VALUE"),
        ("=3", "written KEY=VALUE"),
        ("a..b=3", "written KEY=VALUE"),
        ("a.b=", "a.b: has no value; write null"),
        ("a.b=[1", "a.b: cannot read the value `[1`"),
        ("name.first=x", "name.first: cannot be set: `name` is a plain value, not a group"),
        ("data.text.first=x", "`data.text` is a plain value"),
    ],
)
def test_malformed_overrides(override: str, message: str, values: dict[str, Any]) -> None:
    values["data"]["text"] = ["text"]
    with pytest.raises(RecipeError, match=re.escape(message)):
        apply_overrides(values, [override])


def test_an_unknown_key_is_told_like_one_in_a_file(values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="unknown key — did you mean `rounds`"):
        load_recipe(values, ["federation.round=3"])


def test_a_run_elsewhere_keeps_what_decides_its_bits() -> None:
    recipe = {"runtime": {"kind": "local", "processes": 2, "stack": 3, "precision": "float32"}, "seed": 1}
    assert apply_overrides(recipe, ["runtime.nodes=4", "runtime.kind=flower", "runtime.precision=bfloat16"]) == {
        "runtime": {"kind": "flower", "nodes": 4, "stack": 3, "precision": "bfloat16"},
        "seed": 1,
    }
    assert set(KEPT["runtime"]) == set(RuntimeSettings.model_fields)
