"""The intake of answers: which figures an answer may bring beside its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedfm.clients.work import WORKS
from fedfm.clients.work.evaluate import EVALUATE
from fedfm.params import Params, digest
from fedfm.protocols import Ask
from fedfm.spec import spec_of
from fedfm.wire import TUNABLE, to_bytes
from tests.server.rounds.test_exchange import PARAMS, exchange_of, told

FIGURES = {"accuracy": 0.5, "macro_f1": 0.25}
"""What the recipe asks for."""


def answer(client: str, work: str, extra: Mapping[str, float], params: Params, **facts: Any) -> tuple[str, bytes]:
    """An answer as text that no constructor has checked."""
    claimed = {"client": client, "examples": 5, "steps": 1, "samples": 5, "predictions": 5, "loss": 0.5, **facts}
    head = {"round": 1, "base": digest(PARAMS), "work": work, "facts": {**claimed, "extra": dict(extra)}}
    return client, to_bytes({f"{TUNABLE}/{name}": params[name] for name in params}, {"fedfm": json.dumps(head)})


def taken(
    folder: Path, work: str, extra: Mapping[str, float], *, params: Params | None = None, **facts: Any
) -> tuple[dict[str, Mapping[str, float]], list[tuple[str, str, str]]]:
    """Figures of the sound answers, and the events: client b answers this, and client c without a figure."""
    expected = PARAMS if WORKS[work].shares_passes else {}
    mine = answer("b", work, extra, expected if params is None else params, **facts)
    exchange = exchange_of(folder, [mine, answer("c", work, {}, expected)], "bc", counts=False)
    ask = Ask(1, dict(PARAMS), work=work, expects={TUNABLE: spec_of(expected)} if expected else {})
    updates = list(exchange.ask({"b": ask, "c": ask}))
    totals = exchange.totals
    assert (totals.accepted, totals.refused, totals.failed) == (len(updates), 2 - len(updates), 0)
    assert exchange.records.wire[1]["bytes"] == len(mine[1])
    assert not totals.versions
    return {update.client: update.facts.extra for update in updates}, told(exchange)


@pytest.mark.parametrize(
    "extra", [FIGURES, {"accuracy": 0.5}, {"macro_f1": -3.0}, {}], ids=["all", "one missing", "another", "none"]
)
def test_figures_that_were_announced_are_taken(extra: dict[str, float], tmp_path: Path) -> None:
    assert taken(tmp_path, EVALUATE, extra) == ({"b": extra, "c": {}}, [])


NOT_ASKED = "it sent figure `{}`, which it was not asked for"

UNSOUND: dict[str, tuple[dict[str, Any], str]] = {
    "not announced": ({"extra": {"margin": 0.5}}, NOT_ASKED.format("margin")),
    "one too many": ({"extra": {**FIGURES, "margin": 0.5}}, NOT_ASKED.format("margin")),
    "the loss": ({"extra": {"loss": 0.5}}, NOT_ASKED.format("loss")),
    "more than a message holds": ({"extra": {f"figure-{'a' * n}": 0.5 for n in range(1, 18)}}, "at most 16"),
    "not a number": ({"extra": {"accuracy": float("nan")}}, "NaN is not JSON"),
    "infinite": ({"extra": {"accuracy": float("inf")}}, "Infinity is not JSON"),
    "without end": ({"extra": {"accuracy": 10**400}}, "is beyond 64 bits"),
    "a text": ({"extra": {"accuracy": "0.5"}}, "valid number"),
    "too large": ({"extra": {"accuracy": -1e300}}, "its figure `accuracy` is larger than a float32 holds"),
    "a loss that is not a number": ({"extra": FIGURES, "loss": float("nan")}, "NaN is not JSON"),
    "a state": ({"extra": FIGURES, "state": "0" * 64}, "it names a state that it should not keep"),
    "tensors": ({"extra": FIGURES, "params": PARAMS}, "it sent group `tunable`, which it was not asked for"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_other_figures_are_refused_and_the_others_count(name: str, tmp_path: Path) -> None:
    sent, reason = UNSOUND[name]
    figures, events = taken(tmp_path, EVALUATE, **sent)
    assert figures == {"c": {}}
    ((client, kind, said),) = events
    assert (client, kind) == ("b", "refused")
    assert reason in said


@pytest.mark.parametrize("work", [work for work in WORKS if not (WORKS[work].measures or WORKS[work].hides)])
def test_only_work_that_measures_brings_figures(work: str, tmp_path: Path) -> None:
    refused = ("b", "refused", NOT_ASKED.format("accuracy"))
    assert taken(tmp_path, work, {"accuracy": 0.5}) == ({"c": {}}, [refused])
    assert taken(tmp_path, work, {}) == ({"b": {}, "c": {}}, [])
