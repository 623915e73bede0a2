"""Canaries: who gets them, what they are, and that nothing else of the data changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedfm.audit.canaries import place_canaries
from fedfm.audit.settings import AuditSettings
from fedfm.errors import RecipeError
from fedfm.hosts.planted_data import canaries_of
from fedfm.hosts.training_data import read_training
from fedfm.recipe import load_recipe
from tests.small import small_recipe

CLIENTS = {f"c{number}": np.arange(10 * number, 10 * number + 10) for number in range(8)}


def test_each_client_holds_one_where_there_are_enough() -> None:
    placed = place_canaries(AuditSettings(canaries=8, repeats=3), CLIENTS, 1)
    assert sorted(placed.clients) == sorted(CLIENTS)
    assert len(np.unique(placed.rows)) == 24
    assert all(np.isin(rows, CLIENTS[client]).all() for client, rows in zip(placed.clients, placed.rows, strict=True))
    again = place_canaries(AuditSettings(canaries=8, repeats=3), dict(reversed(CLIENTS.items())), 1)
    np.testing.assert_array_equal(placed.rows, again.rows)


def test_the_coins_are_fair_and_keyed() -> None:
    clients = {"a": np.arange(3000)}
    coins = place_canaries(AuditSettings(canaries=3000), clients, 0).planted
    assert 1400 < coins.sum() < 1600
    assert not np.array_equal(coins, place_canaries(AuditSettings(canaries=3000), clients, 1).planted)


@pytest.mark.parametrize(
    ("settings", "where"),
    [({"canaries": 9, "clients": 9}, "audit.clients"), ({"canaries": 2, "clients": 1, "repeats": 6}, "audit.canaries")],
)
def test_what_does_not_fit_is_refused(settings: dict[str, int], where: str) -> None:
    with pytest.raises(RecipeError) as error:
        place_canaries(AuditSettings(**settings), CLIENTS, 0)
    assert error.value.problems[0].where == where


@pytest.mark.parametrize("task", ["text-classification", "causal-lm"])
def test_planted_canaries_take_places_and_change_nothing_else(tmp_path: Path, task: str) -> None:
    model = {"path": "builtin:tiny-bert" if task == "text-classification" else "builtin:tiny-llama"}
    recipe = small_recipe(tmp_path, task={"kind": task}, model=model)
    clean = read_training(load_recipe(recipe))
    audited = load_recipe({**recipe, "audit": {"canaries": 6, "repeats": 2, "references": 5}})
    training = read_training(audited)
    canaries, placed = canaries_of(
        audited, training.train, training.federation.train, training.labels, training.processor
    )
    assert len(canaries) == 11
    assert 0 < placed.planted.sum() < 6
    rows = {int(row): number for number in np.flatnonzero(placed.planted) for row in placed.rows[number]}
    everything = np.arange(len(clean.train))
    for row, (before, after) in enumerate(
        zip(clean.train.take(everything), training.train.take(everything), strict=True)
    ):
        assert after == (canaries.take([rows[row]])[0] if row in rows else before)
        assert training.train.lengths[row] == len(after["input_ids"])
    (frame, *_) = clean.train.take([0])
    assert all(one["input_ids"][0] == frame["input_ids"][0] for one in canaries.take(range(11)))  # the special token


def test_real_sites_refuse_them(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, audit={"canaries": 3})
    recipe["data"] |= {"train": "sites"}
    with pytest.raises(RecipeError, match=r"audit\.canaries.*planted in the clients' data"):
        load_recipe(recipe)


def test_examples_that_are_more_than_a_text_are_refused(tmp_path: Path) -> None:
    """Canaries would have no response to learn."""
    file = tmp_path / "talk.jsonl"
    file.write_text('{"prompt": "say one", "response": "one two three"}\n' * 12, encoding="utf-8")
    recipe = small_recipe(
        tmp_path,
        task={"kind": "instruct"},
        model={"path": "builtin:tiny-llama"},
        data={"train": str(file), "test": str(file), "max_length": 200},
        audit={"canaries": 2, "references": 2},
    )
    with pytest.raises(RecipeError, match=r"audit\.canaries: a canary is a text with a class"):
        read_training(load_recipe(recipe))
