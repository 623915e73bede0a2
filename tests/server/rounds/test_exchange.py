"""One exchange: a client's faulty answer leads to the refusal of its own update only."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from fedfm.aggregation import Mean
from fedfm.algorithms import FedAvg
from fedfm.clients import Contract
from fedfm.clients.store import ClientStore
from fedfm.clients.work import WORKS
from fedfm.params import digest
from fedfm.printable import line
from fedfm.protocols import Ask, ClientUpdate, State
from fedfm.proxies.base import ModelVersion
from fedfm.proxies.fedpft.activity import activity_problem
from fedfm.proxies.whole_model import WholeModel
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.records.jsonl import dumps
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.arrivals import Arrival
from fedfm.server.rounds.exchange import Exchange
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.messages import Outbox
from fedfm.server.rounds.pending import Pending
from fedfm.server.rounds.round_records import Records, Stopwatch
from fedfm.server.rounds.state import RunState, StateVersion
from fedfm.server.rounds.totals import Totals
from fedfm.spec import spec_of
from fedfm.spill import Spilled
from fedfm.updates import Done, Failure, Payload, Update, decode_update
from fedfm.updates.payload import ACTIVITY
from fedfm.wire import TUNABLE, to_bytes
from tests.asked import Content, Exchanging

PARAMS = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(4)}
COUNTS = {
    "h.tokens": torch.tensor(7),
    "h.zeros": torch.tensor([1, 0]),
    "h.near_zeros": torch.tensor([1, 0]),
    "h.magnitude": torch.tensor([0, 9]),
}
DONE = Done(client="c", examples=5, steps=1, samples=5, predictions=5, loss=0.5)
SOUND = Payload(1, digest(PARAMS), DONE, {TUNABLE: PARAMS, ACTIVITY: COUNTS})
FROM_B = replace(SOUND, facts=DONE.model_copy(update={"client": "b"}))
HOSTILE = "\x1b[2J\x9b31m\n2026-01-01 INFO all is well\u202e"


@dataclass
class Answered(Exchanging):
    """A runtime whose clients have answered already."""

    answers: Sequence[tuple[str, Content]]

    def exchange(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, Content]]:
        yield from self.answers


class TwoNeurons(WholeModel):
    """A client model of which the use of two neurons is counted, without the model."""

    weights: Mapping[str, torch.Tensor] = {}

    def __init__(self, counts: bool) -> None:
        self.counts = counts

    def counts_at(self, round: int) -> bool:  # noqa: A002
        return self.counts

    def activity_problem(self, activity: Mapping[str, torch.Tensor]) -> str | None:
        return activity_problem(activity, {"h": 2})


def exchange_of(
    folder: Path,
    answers: Sequence[tuple[str, Content]],
    clients: Iterable[str],
    *,
    counts: bool = True,
    overrides: Sequence[str] = (),
    replay: str = "",
) -> Exchange:
    """An exchange with clients whose answers arrive in the order given."""
    runtime, model = Answered(answers), TwoNeurons(counts)
    contract = Contract(spec_of(PARAMS), FedAvg())
    experiment = SimpleNamespace(recipe=load_recipe("demo", overrides), contract=contract, client_model=model)
    experiment.keeps_state = lambda client, work: WORKS[work].trains and contract.stateful
    experiment.evaluator = SimpleNamespace(metrics=("accuracy", "macro_f1"))
    experiment.data = SimpleNamespace(clients=dict.fromkeys(clients, 5))
    state = RunState(State(0, PARAMS), proxy=ModelVersion())
    pending = Pending(runtime, deque(Arrival(client, True) for client in replay))
    return Exchange(
        cast(Experiment, experiment), Outbox(runtime, model, contract), pending, ClientStore(folder / "state"),
        state, Records(RunFolder(folder), 1, Stopwatch({})), StopRequest(),
    )  # fmt: skip


def asks(clients: Iterable[str]) -> dict[str, Ask]:
    return dict.fromkeys(clients, Ask(1, dict(PARAMS), learning_rate=0.1))


def exchanged(
    folder: Path, answers: Mapping[str, Content], *, counts: bool = True
) -> tuple[list[ClientUpdate], Totals, Records]:
    exchange = exchange_of(folder, list(answers.items()), answers, counts=counts)
    return list(exchange.ask(asks(sorted(answers)))), exchange.totals, exchange.records


def strides(name: str) -> bytes:
    """A small update with a tensor more, whose shape's product is zero and whose strides no integer holds."""
    whole = FROM_B.encode()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header[name] = {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


def stating(**head: Any) -> bytes:
    """The update of client b with another head, as text that no constructor has checked."""
    sound = {"round": 1, "base": SOUND.base, "work": "train", "facts": FROM_B.facts.model_dump()}
    return to_bytes(SOUND.tensors, {"fedfm": json.dumps({**sound, **head})})


def fields(**facts: Any) -> bytes:
    return stating(facts={**FROM_B.facts.model_dump(), **facts})


def sending(**groups: Mapping[str, torch.Tensor]) -> bytes:
    return replace(FROM_B, groups={**FROM_B.groups, **groups}).encode()


def counts(**changes: torch.Tensor) -> bytes:
    return sending(activity={**COUNTS, **{f"h.{name}": tensor for name, tensor in changes.items()}})


REFUSED: dict[str, bytes | Spilled] = {
    "strides": strides("a.weight2"),
    "strides of counts": strides("activity/h.more"),
    "strides on disk": Spilled([strides("a.weight2")]),
    "a round without end": stating(round=10**4_000),
    "a work": stating(work=HOSTILE * 50),
    "another work": stating(work="evaluate"),
    "a base": stating(base=HOSTILE * 50),
    "fields that are not known": fields(**{HOSTILE: HOSTILE}),
    "fields of the head that are not known": stating(**{HOSTILE: HOSTILE}),
    "examples without end": fields(examples=10**400),
    "a loss that overflows the mean": fields(loss=1.7e308),
    "a loss that is not a number": fields(loss=float("nan")),
    "no loss": fields(loss=None),
    "a version": fields(proxy_version=-(2**63)),
    "a name": fields(client=HOSTILE * 50),
    "a state that did not come": fields(state="0" * 64),
    "a state that is no digest": fields(state=HOSTILE),
    "extras without end": fields(extra={f"key-{'a' * (number + 1)}": 1.0 for number in range(99)}),
    "an extra that is not a number": fields(extra={"x": float("inf")}),
    "tensors that were not asked for": sending(
        tunable={**PARAMS, **{f"{HOSTILE}{i}": torch.empty(0) for i in range(3_000)}}
    ),
    "a group that was not asked for": sending(**{f"{HOSTILE}": PARAMS}),
    "the group of another method": sending(control=PARAMS),
    "no tunable": replace(FROM_B, groups={ACTIVITY: COUNTS}).encode(),
    "no counts": replace(FROM_B, groups={TUNABLE: PARAMS}).encode(),
    "counts that were not asked for": counts(**{HOSTILE: torch.tensor(1)}),
    "counts that overflow": counts(tokens=torch.tensor(2**63 - 1)),
    "sums that overflow": counts(magnitude=torch.tensor([2**63 - 1, 0])),
    "values that overflow when they are squared": sending(
        tunable={name: tensor * 1e30 for name, tensor in PARAMS.items()}
    ),
    "nothing": b"",
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_the_others_count(tmp_path: Path, name: str) -> None:
    updates, totals, records = exchanged(tmp_path, {"b": REFUSED[name], "c": SOUND.encode()})
    assert (totals.accepted, totals.refused, totals.failed) == (1, 1, 0)
    (update,) = updates
    assert update.client == "c"
    torch.testing.assert_close(dict(update.groups[TUNABLE]), PARAMS)
    (event,) = records.events
    assert (event["kind"], event["client"]) == ("refused", "b")
    assert event["reason"] == line(event["reason"])
    _, refused, sound = records.wire
    assert (refused["clients"], refused["bytes"], refused["tensors"]) == (["b"], len(REFUSED[name]), [])
    assert [tensor["name"] for tensor in sound["tensors"]] == sorted(SOUND.tensors)
    assert len(dumps(records.events)) < 1_500
    assert not totals.versions


def test_counts_of_use_are_refused_where_none_were_asked_for(tmp_path: Path) -> None:
    plain: Update = replace(SOUND, groups={TUNABLE: PARAMS})
    updates, totals, records = exchanged(tmp_path, {"b": FROM_B.encode(), "c": plain.encode()}, counts=False)
    assert [update.client for update in updates] == ["c"]
    assert records.events[0]["reason"] == "it sent counts of neurons' use that it was not asked for"
    assert totals.activity == {}


def test_reasons_of_failures_are_made_safe_and_cut(tmp_path: Path) -> None:
    failure = Failure("b", HOSTILE * 999, f"Traceback\n{HOSTILE * 9_999}ValueError: the end")
    _, totals, records = exchanged(tmp_path, {"b": failure, "c": SOUND.encode()})
    assert (totals.accepted, totals.failed) == (1, 1)
    (event,) = records.events
    assert event["reason"] == line(event["reason"])
    assert event["details"].startswith("Traceback\n\\x1b[2J")
    assert event["details"].endswith("ValueError: the end")
    assert len(dumps(event)) < 12_000


def sound(client: str) -> tuple[str, bytes]:
    return client, replace(SOUND, facts=DONE.model_copy(update={"client": client}), groups={TUNABLE: PARAMS}).encode()


def told(exchange: Exchange) -> list[tuple[str, str, str]]:
    return [(event["client"], event["kind"], event["reason"]) for event in exchange.records.events]


@pytest.mark.parametrize("arrival", list(itertools.permutations("abc")))
def test_t18_updates_come_in_the_order_of_the_asks(tmp_path: Path, arrival: tuple[str, ...]) -> None:
    exchange = exchange_of(tmp_path, [sound(client) for client in arrival], "abc", counts=False)
    assert [update.client for update in exchange.ask(asks("cab"))] == list("cab")
    assert [record["clients"] for record in exchange.records.wire] == [["c", "a", "b"], ["c"], ["a"], ["b"]]
    assert exchange.outstanding == set()


def test_t18_fifty_orders_of_arrival_give_one_mean_bit_for_bit(tmp_path: Path) -> None:
    """Float32 sums in the order of arrival would differ."""
    rng = np.random.default_rng(18)
    sent = dict(sound(client) for client in "abcdefgh")
    for place, client in enumerate(sent):
        update = decode_update(sent[client])
        values = {
            name: torch.from_numpy(rng.normal(size=tensor.shape) * 10.0 ** (place - 4)).float()
            for name, tensor in PARAMS.items()
        }
        sent[client] = replace(update, groups={TUNABLE: values}).encode()
    means = set()
    for arrival in (rng.permutation(list(sent)) for _ in range(50)):
        folder = tmp_path / "".join(arrival)
        exchange = exchange_of(folder, [(str(client), sent[client]) for client in arrival], sent, counts=False)
        fold = Mean().start(spec_of(PARAMS), PARAMS)
        for update in exchange.ask(asks(sent)):
            fold.add(update.groups[TUNABLE], update.contribution, update.slices)
        means.add(digest(fold.result()))
    assert len(means) == 1


SPARES = ["runtime={kind: ray, spares: 1.0}", "federation.per_round=2"]


def test_where_there_are_spares_the_first_sound_updates_count_in_the_order_of_arrival(tmp_path: Path) -> None:
    answers = [sound("d"), ("b", b"garbage"), sound("a"), sound("c")]
    exchange = exchange_of(tmp_path, answers, "abcd", counts=False, overrides=SPARES)
    assert [update.client for update in exchange.ask(asks("abcd"))] == ["d", "a"]
    assert [(client, kind) for client, kind, _ in told(exchange)] == [("b", "refused"), ("c", "late")]
    assert exchange.outstanding == set()
    assert exchange.pending.runtime.next() is None, "replies that are not waited for are dropped"
    assert (exchange.totals.accepted, exchange.totals.refused, exchange.totals.failed) == (2, 1, 0)


def test_where_spares_are_not_enough_those_without_an_answer_have_failed(tmp_path: Path) -> None:
    exchange = exchange_of(tmp_path, [("c", b"garbage"), sound("b")], "abcd", counts=False, overrides=SPARES)
    assert [update.client for update in exchange.ask(asks("abcd"))] == ["b"]  # half of two, the quorum
    assert [(client, kind) for client, kind, _ in told(exchange)] == [
        ("c", "refused"), ("a", "failed"), ("d", "failed"),
    ]  # fmt: skip


@pytest.mark.parametrize("overrides", [[], SPARES])
def test_t13_a_client_counts_once(tmp_path: Path, overrides: list[str]) -> None:
    answers = [sound("a"), sound("a"), sound("x"), ("b", b"garbage"), sound("b"), sound("c")]
    exchange = exchange_of(tmp_path, answers, "abc", counts=False, overrides=overrides)
    assert [update.client for update in exchange.ask(asks("abc"))] == ["a", "c"]
    assert [(client, reason) for client, _, reason in told(exchange) if client != "b"] == [
        ("a", "it answered twice"), ("x", "it was not asked"),
    ]  # fmt: skip
    assert [(client, kind) for client, kind, _ in told(exchange) if client == "b"] == [("b", "refused")] * 2
    assert exchange.totals.accepted == 2


def arrivals(exchange: Exchange) -> list[str]:
    found = []
    while (update := exchange.next(dict.fromkeys("abcd", 0))) is not None:
        found.append(update.client)
    return found


def test_what_was_submitted_counts_once_and_its_arrival_is_written_down(tmp_path: Path) -> None:
    answers = [sound("b"), sound("b"), ("c", b"garbage"), sound("x"), sound("a")]
    exchange = exchange_of(tmp_path, answers, "abc", counts=False)
    exchange.submit(asks("abc"))
    assert arrivals(exchange) == ["b", "a"]
    assert [(client, kind) for client, kind, _ in told(exchange)] == [
        ("b", "refused"), ("c", "refused"), ("x", "refused"),
    ]  # fmt: skip
    assert [event["client"] for event in jsonl.records(exchange.records.folder.events)] == ["b", "c", "a"]


def test_a_resumed_run_takes_updates_in_the_order_of_their_first_arrival(tmp_path: Path) -> None:
    exchange = exchange_of(tmp_path, [sound(client) for client in "bacd"], "abcd", counts=False, replay="ca")
    exchange.submit(asks("abcd"))
    assert arrivals(exchange) == list("cabd")
    assert [event["client"] for event in jsonl.records(exchange.records.folder.events)] == ["b", "d"], (
        "the others are there"
    )


def test_a_client_that_is_not_asked_again_is_not_waited_for(tmp_path: Path) -> None:
    exchange = exchange_of(tmp_path, [sound(client) for client in "ab"], "ab", counts=False, replay="xb")
    exchange.submit(asks("ab"))
    assert arrivals(exchange) == list("ba")
    assert not exchange.pending.replay


@pytest.mark.parametrize("keeps_state", [True, False])
def test_a_message_names_the_state_that_a_site_continues_from(keeps_state: bool) -> None:
    runtime, model = Answered([]), TwoNeurons(False)
    runtime.keeps_state = keeps_state
    state = RunState(State(4, PARAMS), proxy=ModelVersion(), versions={"a": StateVersion(3, "0" * 64)})
    outbox = Outbox(runtime, model, Contract(spec_of(PARAMS), FedAvg()), {"a": 2})
    messages = outbox.write(asks("abc"), state, [])
    facts = {client: message.instruction.facts for client, message in messages.items()}
    named = {client: (said.continue_from, said.forget_before) for client, said in facts.items()}
    assert named == {"a": (3, 2) if keeps_state else (0, 0), "b": (0, 0), "c": (0, 0)}
    assert messages["b"].content is messages["c"].content
    assert (messages["a"].content is messages["b"].content) == (not keeps_state), "a state that travels is not named"
