"""Clients that come and go: who is drawn, and what the events say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedfm import run
from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.recipe.federation import FederationSettings
from fedfm.server.rounds.comings import comings
from tests.events import irregular
from tests.small import small_recipe

PRESENCE = {"phone-1": [4, None], "phone-*": [None, 2]}
CLIENTS = ["phone-1", "phone-2", "ward"]


def test_the_first_pattern_counts_and_others_are_always_there() -> None:
    federation = FederationSettings(presence=PRESENCE, rounds=5)
    there = {client: [n for n in range(1, 6) if federation.is_there(client, n)] for client in CLIENTS}
    assert there == {"phone-1": [4, 5], "phone-2": [1, 2], "ward": [1, 2, 3, 4, 5]}
    assert federation.turning_points() == [1, 3, 4]
    found = {number: list(comings(federation, CLIENTS, number)) for number in range(1, 6)}
    assert found == {1: [], 2: [], 3: [("left", "phone-2")], 4: [("joined", "phone-1")], 5: []}


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"the last round \(2\) is before the first \(3\)"):
        load_recipe("quick", ["federation.presence={'*': [3, 2]}"])


def test_a_round_draws_from_the_clients_that_are_there(tmp_path: Path) -> None:
    presence = {"0": [1, 1], "[1-4]": [2, None]}
    federation = {"clients": 6, "per_round": 3, "rounds": 2, "presence": presence}
    finished = run(load_recipe(small_recipe(tmp_path, federation=federation, tune={"kind": "head"})))
    lines = [json.loads(line) for line in (finished.path / "wire.jsonl").read_text().splitlines()]
    trained = {
        number: {client for line in lines if line["round"] == number for client in line["clients"]} for number in (1, 2)
    }
    assert trained[1] == {"0", "5"}
    assert len(trained[2]) == 3
    assert "0" not in trained[2]
    events = irregular(json.loads(line) for line in (finished.path / "events.jsonl").read_text().splitlines())
    assert {(event["kind"], event["client"], event["round"]) for event in events} == {
        ("left", "0", 2),
        *(("joined", str(client), 2) for client in range(1, 5)),
    }
