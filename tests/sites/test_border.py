"""What a site's policy refuses, and what its border writes down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.recipe import Recipe, load_recipe
from fedfm.sites.border import Border, PolicyError
from fedfm.sites.policy import Policy
from fedfm.updates import Update, encode_update
from tests.small import small_recipe

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "algorithm": ({"algorithms": ["fedprox"]}, "algorithms: fedprox, not fedavg"),
    "tunable": ({"tunables": ["head", "bitfit"]}, "tunables: head, bitfit, not lora"),
    "privacy": ({"privacy": "central"}, "privacy: central at least, not none"),
    "rounds": ({"max_rounds": 3}, "max_rounds: 3, not 4"),
}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(small_recipe(tmp_path))


def border(folder: Path, **policy: Any) -> Border:
    return Border(Policy(**policy), folder / "site", [].append)


def update(number: int) -> bytes:
    params = {"w": torch.ones(3)}
    return encode_update(Update(number, "clinic", "base", examples=5, steps=1, samples=5, loss=0.5, params=params))


@pytest.mark.parametrize("case", REFUSED)
def test_a_recipe_outside_the_policy(case: str, recipe: Recipe, tmp_path: Path) -> None:
    policy, reason = REFUSED[case]
    with pytest.raises(PolicyError) as caught:
        border(tmp_path, **policy).admit(recipe, "job")
    assert reason in str(caught.value)


def test_everything_outside_it_is_named_at_once(recipe: Recipe, tmp_path: Path) -> None:
    policy = {key: value for changes, _ in REFUSED.values() for key, value in changes.items()}
    with pytest.raises(PolicyError) as caught:
        border(tmp_path, **policy).admit(recipe, "job")
    assert all(reason in str(caught.value) for _, reason in REFUSED.values())


def test_what_it_does_not_mention_is_allowed(recipe: Recipe, tmp_path: Path) -> None:
    open_to_all = border(tmp_path)
    open_to_all.admit(recipe, "job")
    open_to_all.admit_model("0" * 64)
    border(tmp_path, algorithms=["fedavg"], tunables=["lora"], max_rounds=4).admit(recipe, "job")


def test_only_known_models(tmp_path: Path) -> None:
    known = border(tmp_path, models=["ab" * 6, "cd" * 32])
    known.admit_model("ab" * 32)
    known.admit_model("cd" * 32)
    with pytest.raises(PolicyError, match="none of them is 010101010101"):
        known.admit_model("01" * 32)


def test_an_update_that_is_too_large_does_not_leave(recipe: Recipe, tmp_path: Path) -> None:
    guard, blob = border(tmp_path, max_bytes=len(update(1)) - 1), update(1)
    with pytest.raises(PolicyError, match=f"max_bytes: {len(blob) - 1}, not {len(blob)}"):
        guard.pass_update(blob, recipe, "job")
    assert not guard.ledger.exists()


def test_rounds_are_counted_over_restarts_and_a_torn_line_is_cut(recipe: Recipe, tmp_path: Path) -> None:
    guard = border(tmp_path, max_rounds=4)
    for number in (1, 2, 3):
        guard.pass_update(update(number), recipe, "job")
    with guard.ledger.open("ab") as ledger:
        ledger.write(b'{"run": "sma')
    again = border(tmp_path, max_rounds=4)
    assert (again.rounds("job"), again.rounds("another")) == (3, 0)
    again.admit(recipe, "job")
    again.pass_update(update(4), recipe, "job")
    lines = [json.loads(line) for line in again.ledger.read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert {(line["run"], line["direction"], *line["clients"]) for line in lines} == {("small", "up", "clinic")}
    with pytest.raises(PolicyError, match="max_rounds: 4, and as many were played"):
        again.admit(recipe, "job")
