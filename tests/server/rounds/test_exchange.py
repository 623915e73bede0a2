"""One exchange: whatever a client sends, it is that client's update which is refused; the others count."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedfm.printable import line
from fedfm.proxies.base import ModelVersion, WholeModel
from fedfm.proxies.fedpft.activity import activity_problem
from fedfm.recipe import load_recipe
from fedfm.records.jsonl import dumps
from fedfm.runtimes.base import Answer
from fedfm.server.rounds.exchange import Answers, Exchange
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.round_records import Records, Stopwatch
from fedfm.spill import Spilled
from fedfm.updates import Failure, Instruction, Update, encode_update
from fedfm.wire import to_bytes

PARAMS = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(4)}
ASKED = Instruction(1, "b" * 64, 0.1, PARAMS, count_activity=True)
COUNTS = {"h.zeros": torch.tensor([1, 0]), "h.near_zeros": torch.tensor([1, 0]), "h.magnitude": torch.tensor([0, 9])}
SOUND = Update(1, "c", "b" * 64, 5, 1, 5, 0.5, PARAMS, activity={"h.tokens": torch.tensor(7), **COUNTS})
HOSTILE = "\x1b[2J\x9b31m\n2026-01-01 INFO all is well\u202e"


class Said:
    """A runtime whose clients have answered already."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers = answers

    def hand_out(self, clients: Sequence[str], version: ModelVersion) -> None: ...

    def exchange(self, messages: Mapping[str, bytes]) -> Generator[tuple[str, Answer]]:
        yield from self.answers.items()

    def close(self) -> None: ...


class TwoNeurons(WholeModel):
    """A client model of which the use of two neurons is counted, without the model."""

    def __init__(self) -> None: ...

    def activity_problem(self, activity: Mapping[str, torch.Tensor]) -> str | None:
        return activity_problem(activity, {"h": 2})


def exchanged(**answers: Answer) -> tuple[Answers, Records]:
    records = Records()
    exchange = Exchange(Said(answers), load_recipe("demo"), (), StopRequest(), TwoNeurons())
    cohort = dict.fromkeys(sorted(answers), 1)
    came_back = exchange(cohort, ASKED, dict.fromkeys(cohort, b""), records, Stopwatch({}))
    return came_back, records


def strides(name: str) -> bytes:
    """A small update with a tensor more, whose shape's product is zero and whose strides no integer holds."""
    whole = encode_update(replace(SOUND, client="b"))
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header[name] = {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


def fields(**changes: Any) -> bytes:
    sound = {"round": 1, "client": "b", "base": "b" * 64, "examples": 5, "steps": 1, "samples": 5, "loss": 0.5}
    return to_bytes(SOUND.tensors, {"fedfm": json.dumps({**sound, "proxy_version": 0, **changes})})


def counts(**changes: torch.Tensor) -> bytes:
    activity = {**SOUND.activity, **{f"h.{name}": tensor for name, tensor in changes.items()}}
    return encode_update(replace(SOUND, client="b", activity=activity))


REFUSED: dict[str, bytes | Spilled] = {
    "strides": strides("a.weight2"),
    "strides of counts": strides("activity/h.more"),
    "strides on disk": Spilled([strides("a.weight2")]),
    "a round without end": fields(round=10**4_000),
    "examples without end": fields(examples=10**400),
    "a loss that overflows the mean": fields(loss=1.7e308),
    "a version": fields(proxy_version=-(2**63)),
    "a name": fields(client=HOSTILE * 50),
    "a base": fields(base=HOSTILE * 50),
    "fields that are not known": fields(**{HOSTILE: HOSTILE}),
    "tensors that were not asked for": encode_update(
        replace(SOUND, client="b", params={**PARAMS, **{f"{HOSTILE}{i}": torch.empty(0) for i in range(3_000)}})
    ),
    "counts that were not asked for": counts(**{HOSTILE: torch.tensor(1)}),
    "counts that overflow": counts(tokens=torch.tensor(2**63 - 1)),
    "sums that overflow": counts(magnitude=torch.tensor([2**63 - 1, 0])),
    "values that overflow when they are squared": encode_update(
        replace(SOUND, client="b", params={name: tensor * 1e30 for name, tensor in PARAMS.items()})
    ),
    "nothing": b"",
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_the_others_count(name: str) -> None:
    came_back, records = exchanged(b=REFUSED[name], c=encode_update(SOUND))
    assert (came_back.accepted, came_back.refused, came_back.failed) == (1, 1, 0)
    torch.testing.assert_close(came_back.fold.result(), PARAMS)
    (event,) = records.events
    assert (event["kind"], event["client"]) == ("refused", "b")
    assert event["reason"] == line(event["reason"])
    refused, sound = records.wire
    assert (refused["clients"], refused["bytes"], refused["tensors"]) == (["b"], len(REFUSED[name]), [])
    assert [tensor["name"] for tensor in sound["tensors"]] == sorted(SOUND.tensors)
    assert len(dumps(records.events)) < 1_500


def test_reasons_of_failures_are_made_safe_and_cut() -> None:
    failure = Failure("b", HOSTILE * 999, f"Traceback\n{HOSTILE * 9_999}ValueError: the end")
    came_back, records = exchanged(b=failure, c=encode_update(SOUND))
    assert (came_back.accepted, came_back.failed) == (1, 1)
    (event,) = records.events
    assert event["reason"] == line(event["reason"])
    assert event["details"].startswith("Traceback\n\\x1b[2J")
    assert event["details"].endswith("ValueError: the end")
    assert len(dumps(event)) < 12_000
