"""Unsound updates never change the model (defects of others: NaN, broadcasts, claimed weights, replays)."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfm.server.rounds.screening import screen, value_problem
from fedfm.spec import spec_of
from fedfm.updates import Asked, Done, Payload, Update
from fedfm.updates.payload import ACTIVITY
from fedfm.wire import TUNABLE

PARAMS = {"w": torch.zeros(3), "v": torch.zeros(2, 2)}
EXPECTED = {TUNABLE: spec_of(PARAMS)}
INSTRUCTION = Payload(4, "b" * 64, Asked(learning_rate=0.1, proxy_version=2), {TUNABLE: PARAMS})
SENT = {"w": torch.ones(3), "v": torch.ones(2, 2)}
DONE = Done(client="3", examples=5, steps=1, samples=5, loss=0.3, predictions=5, proxy_version=2)
SOUND = Payload(4, "b" * 64, DONE, {TUNABLE: SENT})


def stating(**facts: Any) -> Update:
    """The sound update with other facts, which its constructor has not checked."""
    return dataclasses.replace(SOUND, facts=DONE.model_copy(update=facts))


def sending(**params: torch.Tensor) -> Update:
    """The sound update with other values."""
    return dataclasses.replace(SOUND, groups={TUNABLE: SENT | params})


def refusal(update: Update, *, accepts_stale: bool = False) -> str | None:
    reason = screen(update, INSTRUCTION, EXPECTED, client="3", accepts_stale=accepts_stale)
    return reason or value_problem(update.groups, update.facts)


@pytest.mark.parametrize(("version", "refused"), [(0, False), (1, False), (2, False), (3, True), (-1, True)])
def test_updates_on_an_older_proxy_pass_where_that_is_allowed(version: int, refused: bool) -> None:
    assert (refusal(stating(proxy_version=version), accepts_stale=True) is not None) == refused


def test_a_sound_update_passes() -> None:
    assert refusal(SOUND) is None


def test_a_client_that_predicted_nothing_has_no_loss() -> None:
    assert refusal(stating(predictions=0, loss=None)) is None


def test_work_that_trains_nothing_takes_no_steps() -> None:
    asked, answer = (dataclasses.replace(payload, work="evaluate") for payload in (INSTRUCTION, stating(steps=0)))
    assert screen(answer, asked, EXPECTED, client="3") is None  # type: ignore[arg-type]


NAN, NONE = float("nan"), dict[str, torch.Tensor]()


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (stating(client="4"), "names client `4`"),
        (dataclasses.replace(SOUND, round=3), "round 3, not round 4"),
        (dataclasses.replace(SOUND, work="predict"), "answers work `predict`, not `train`"),
        (dataclasses.replace(SOUND, base="c" * 64), "another base"),
        (dataclasses.replace(SOUND, groups={TUNABLE: SENT, "x": NONE}), "group `x`, which it was not asked for"),
        (stating(proxy_version=1), "trained on version 1 of the proxy, not 2"),
        (stating(proxy_version=3), "trained on version 3 of the proxy, not 2"),
        (stating(examples=0), "claims 0"),
        (stating(examples=-29), "claims -29"),
        (stating(examples=10**10), "claims 10000000000"),
        (stating(steps=0), "claims 0 steps on 5 samples"),
        (stating(steps=6), "claims 6 steps on 5 samples"),
        (stating(samples=2**41), "claims 1 steps on 2199023255552 samples"),
        (stating(predictions=-1), "claims -1 predictions"),
        (stating(predictions=2**60), "claims 1152921504606846976 predictions"),
        (stating(predictions=3, loss=None), "its loss is not a number"),
        (dataclasses.replace(SOUND, groups={TUNABLE: {"w": torch.ones(3)}}), "1 tensors are missing, first `v`"),
        (dataclasses.replace(SOUND, groups={}), "2 tensors are missing, first `v`"),
        (sending(x=torch.ones(1)), "not asked for, first `x`"),
        (sending(w=torch.ones(1)), r"`w` has shape \[1\], not \[3\]"),
        (sending(w=torch.ones(3, dtype=torch.float64)), "float64"),
        (sending(w=torch.tensor([1.0, NAN, 1.0])), "non-finite values in 1 of 2"),
        (sending(w=torch.tensor([1.0, float("inf"), 1.0])), "non-finite values in 1 of 2"),
        (sending(w=torch.tensor([1.0, 3e38, 1.0])), "squares no float32 holds in 1 of 2"),
        (stating(loss=1e308), "its loss is not a number"),
        (stating(loss=NAN), "its loss is not a number"),
        (stating(client="\x1b[31m3\n\u202e" * 99), r"names client `\\x1b\[31m3\\n\\u202e.*… \(\d+ characters\)`"),
        (
            dataclasses.replace(stating(loss=None), groups={TUNABLE: {n: t * NAN for n, t in SENT.items()}}),
            "non-finite values in 2 of 2 tensors \\(loss was not a number\\)",
        ),
    ],
)
def test_t09_t10_t12_t13_t14_what_is_refused_and_why(update: Update, reason: str) -> None:
    said = refusal(update)
    assert said is not None
    assert re.search(reason, said)


@given(place=st.integers(0, 6), value=st.sampled_from([NAN, float("inf"), -float("inf")]))
def test_t09_a_value_that_is_not_finite_is_found_wherever_it_is(place: int, value: float) -> None:
    flat = torch.ones(7)
    flat[place] = value
    said = refusal(sending(w=flat[:3], v=flat[3:].view(2, 2)))
    assert said is not None
    assert said.startswith("non-finite values in 1 of 2 tensors")


def test_counts_of_use_have_values_of_their_own() -> None:
    assert value_problem({**SOUND.groups, ACTIVITY: {"h.magnitude": torch.tensor([2.0**100])}}, DONE) is None
