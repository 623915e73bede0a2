"""Unsound updates never touch the model (defects of others: NaN, broadcasts, claimed weights, replays)."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from fedfm.server.rounds.screening import screen
from fedfm.updates import Instruction, Update

PARAMS = {"w": torch.zeros(3), "v": torch.zeros(2, 2)}
INSTRUCTION = Instruction(round=4, base="b" * 64, learning_rate=0.1, params=PARAMS, proxy_version=2)
SOUND = Update(
    round=4,
    client="3",
    base="b" * 64,
    examples=5,
    steps=1,
    samples=5,
    loss=0.3,
    predictions=5,
    params={"w": torch.ones(3), "v": torch.ones(2, 2)},
    proxy_version=2,
)


@pytest.mark.parametrize(("version", "refused"), [(0, False), (1, False), (2, False), (3, True), (-1, True)])
def test_updates_on_an_older_proxy_pass_where_that_is_allowed(version: int, refused: bool) -> None:
    update = dataclasses.replace(SOUND, proxy_version=version)
    assert (screen(update, INSTRUCTION, client="3", stale=True) is not None) == refused


def test_a_sound_update_passes() -> None:
    assert screen(SOUND, INSTRUCTION, client="3") is None


def test_a_client_that_predicted_nothing_has_no_loss() -> None:
    update = dataclasses.replace(SOUND, predictions=0, loss=float("nan"))
    assert screen(update, INSTRUCTION, client="3") is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client": "4"}, "from client `4`"),
        ({"round": 3}, "round 3, not round 4"),
        ({"base": "c" * 64}, "another base"),
        ({"activity": {"b.zeros": torch.zeros(2)}}, "counts of neurons' use that nobody asked for"),
        ({"proxy_version": 1}, "trained on version 1 of the proxy, not 2"),
        ({"proxy_version": 3}, "trained on version 3 of the proxy, not 2"),
        ({"examples": 0}, "claims 0"),
        ({"examples": -29}, "claims -29"),
        ({"examples": 10**10}, "claims 10000000000"),
        ({"predictions": -1}, "claims -1 predictions"),
        ({"predictions": 2**60}, "claims 1152921504606846976 predictions"),
        ({"predictions": 3, "loss": float("nan")}, "its loss is not a number"),
        ({"params": {"w": torch.ones(3)}}, "1 tensors are missing, first `v`"),
        ({"params": {**SOUND.params, "x": torch.ones(1)}}, "not asked for, first `x`"),
        ({"params": {**SOUND.params, "w": torch.ones(1)}}, r"`w` has shape \[1\], not \[3\]"),
        ({"params": {**SOUND.params, "w": torch.ones(3, dtype=torch.float64)}}, "float64"),
        ({"params": {**SOUND.params, "w": torch.tensor([1.0, float("nan"), 1.0])}}, "non-finite values in 1 of 2"),
        ({"params": {**SOUND.params, "w": torch.tensor([1.0, float("inf"), 1.0])}}, "non-finite values in 1 of 2"),
        ({"params": {**SOUND.params, "w": torch.tensor([1.0, 3e38, 1.0])}}, "squares no float32 holds in 1 of 2"),
        ({"loss": 1e308}, "its loss is not a number"),
        ({"loss": float("nan")}, "its loss is not a number"),
        ({"client": "\x1b[31m3\n\u202e" * 99}, r"from client `\\x1b\[31m3\\n\\u202e.*… \(\d+ characters\)`"),
        ({"params": {n: t * float("nan") for n, t in SOUND.params.items()}, "loss": float("nan")}, "loss was NaN"),
    ],
)
def test_what_is_refused_and_why(changes: dict, reason: str) -> None:
    said = screen(dataclasses.replace(SOUND, **changes), INSTRUCTION, client="3")
    assert said is not None
    assert re.search(reason, said)
