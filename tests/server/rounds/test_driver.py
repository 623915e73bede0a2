"""The round loop with real clients and a carrier that can tamper: what is refused, what is recorded, what goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedfm.errors import InterruptedRunError, RecipeError, TooFewClientsError
from fedfm.params import Params, add, digest, full_like, map_params
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.runtimes.local import LocalRuntime
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.rounds.driver import RoundLoop
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.sampling import sample_cohort
from fedfm.server.rounds.state import RunState
from fedfm.trackers.listeners import Listener
from fedfm.updates import Failure, Update, decode_update, encode_update
from tests.asked import Content, Exchanging, exchanged
from tests.small import small_recipe

Tamper = Callable[[Update], bytes | Failure]


@dataclasses.dataclass
class TamperingRuntime(Exchanging):
    """Carries everything as it is, but for the answers of some clients."""

    honest: LocalRuntime
    tampers: dict[str, Tamper]

    def exchange(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, Content]]:
        for client, answer in exchanged(self.honest, messages):
            if client in self.tampers:
                assert not isinstance(answer, Failure)
                answer = self.tampers[client](decode_update(answer))
            yield client, answer


def build(folder: Path, **changes: Any) -> Experiment:
    federation = {"clients": 4, "per_round": 4, "rounds": 2}
    return build_experiment(load_recipe(small_recipe(folder, **{"federation": federation, **changes})))


def loop_of(
    experiment: Experiment, folder: Path, tampers: dict[str, Tamper] | None = None, listeners: Sequence[Listener] = ()
) -> RoundLoop:
    runtime = TamperingRuntime(LocalRuntime(experiment.worker), tampers or {})
    return RoundLoop(experiment, runtime, RunFolder.create(folder / "run"), listeners, StopRequest())


def play(loop: RoundLoop) -> RunState:
    return loop.play(loop.start())


def events(loop: RoundLoop) -> list[dict[str, Any]]:
    return list(jsonl.records(loop.folder.events))


def with_nan(update: Update) -> bytes:
    params = map_params(torch.clone, update.params)
    next(iter(params.values())).view(-1)[0] = float("nan")
    return encode_update(dataclasses.replace(update, params=params, loss=float("nan")))


TAMPERS: dict[str, tuple[Tamper, str, str]] = {
    "nan": (with_nan, "refused", "non-finite values in 1 of"),
    "failure": (lambda update: Failure(update.client, "out of memory"), "failed", "out of memory"),
    "garbage": (lambda update: b"garbage", "refused", "not a fedfm message"),
    "other client": (
        lambda update: encode_update(dataclasses.replace(update, client="somebody")),
        "refused",
        "from client `somebody`",
    ),
    "late": (lambda update: encode_update(dataclasses.replace(update, round=update.round - 1)), "refused", "not round"),
    "no loss": (
        lambda update: encode_update(dataclasses.replace(update, loss=float("nan"))),
        "refused",
        "its loss is not a number",
    ),
    "no work": (lambda update: encode_update(dataclasses.replace(update, steps=0)), "refused", "0 steps"),
    "greedy": (lambda update: encode_update(dataclasses.replace(update, examples=10**12)), "refused", "claims"),
}


@pytest.mark.parametrize("tamper", TAMPERS)
def test_an_unsound_update_is_refused_recorded_and_as_if_never_sent(tmp_path: Path, tamper: str) -> None:
    change, kind, reason = TAMPERS[tamper]
    experiment = build(tmp_path)
    loop = loop_of(experiment, tmp_path, {"1": change})
    state = play(loop)
    assert [(event["round"], event["client"], event["kind"]) for event in events(loop)] == [
        (1, "1", kind),
        (2, "1", kind),
    ]
    assert all(reason in event["reason"] for event in events(loop))
    assert (state.failed, state.refused) == ((2, 0) if kind == "failed" else (0, 2))

    # The same federation in which client 1 is never asked: its examples weigh nothing.
    (tmp_path / "without").mkdir()
    other = loop_of(experiment, tmp_path / "without", {"1": lambda update: Failure("1", "absent")})
    assert digest(play(other).params) == digest(state.params)


class Watching(TamperingRuntime):
    """Says where the messages were that went out."""

    def exchange(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, Content]]:
        (message,) = {id(message): message for message in messages.values()}.values()
        start = np.frombuffer(message, dtype=np.uint8).ctypes.data
        self.there = range(start, start + len(message))
        yield from super().exchange(messages)


def test_what_was_sent_and_what_it_was_sent_from_are_in_one_place(tmp_path: Path) -> None:
    experiment = build(tmp_path, federation={"clients": 4, "per_round": 4, "rounds": 1})
    loop = loop_of(experiment, tmp_path)
    runtime = Watching(LocalRuntime(experiment.worker), {})
    loop.exchange = dataclasses.replace(loop.exchange, runtime=runtime)
    start = loop.start()
    before = digest(start.params)
    loop.play(start)
    assert all(tensor.data_ptr() in runtime.there for tensor in start.params.values())
    assert digest(start.params) == before


class Backwards(TamperingRuntime):
    """The clients that were asked last answer first."""

    def exchange(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, Content]]:
        yield from super().exchange(dict(reversed(messages.items())))


def test_where_spares_are_asked_the_first_count_and_the_others_are_not_waited_for(tmp_path: Path) -> None:
    federation = {"clients": 4, "per_round": 2, "rounds": 1, "quorum": 1.0}
    experiment = build(tmp_path, federation=federation, runtime={"kind": "ray", "spares": 1.0, "stack": 1})
    lost = {"2": lambda update: Failure("2", "out of memory")}
    loop = loop_of(experiment, tmp_path, lost)
    loop.exchange = dataclasses.replace(loop.exchange, runtime=Backwards(LocalRuntime(experiment.worker), lost))
    state = play(loop)
    kinds = {event["client"]: (event["kind"], event["reason"]) for event in events(loop)}
    assert kinds == {"2": ("failed", "out of memory"), "0": ("late", "2 others were faster")}
    assert (state.failed, state.refused) == (1, 0)
    lines = [line for line in jsonl.records(loop.folder.wire) if line["direction"] == "up"]
    assert [line["clients"] for line in lines] == [["3"], ["1"]]

    (tmp_path / "two").mkdir()
    absent = {client: lambda update: Failure(update.client, "absent") for client in "02"}
    everybody = {**federation, "per_round": 4, "quorum": 0.5}
    all_four = build(tmp_path / "two", federation=everybody, runtime={"stack": 1})
    assert digest(play(loop_of(all_four, tmp_path / "two", absent)).params) == digest(state.params)


def test_too_few_of_those_that_were_asked_are_too_few(tmp_path: Path) -> None:
    federation = {"clients": 4, "per_round": 2, "rounds": 1, "quorum": 1.0}
    experiment = build(tmp_path, federation=federation, runtime={"kind": "ray", "spares": 1.0})
    lost = {client: lambda update: Failure(update.client, "out of memory") for client in "123"}
    with pytest.raises(TooFewClientsError, match="only 1 of 2 clients"):
        play(loop_of(experiment, tmp_path, lost))


def test_one_round_is_the_weighted_mean_of_the_updates(tmp_path: Path) -> None:
    federation = {"clients": 4, "per_round": 4, "rounds": 1, "partition": {"kind": "quantity", "alpha": 0.5}}
    experiment = build(tmp_path, federation=federation)
    seen: dict[str, Update] = {}

    def keep(update: Update) -> bytes:
        seen[update.client] = update
        return encode_update(update)

    loop = loop_of(experiment, tmp_path, dict.fromkeys("0123", keep))
    start = loop.start()
    state = loop.play(start)
    sizes = experiment.data.clients
    assert len(set(sizes.values())) > 1
    total = sum(sizes.values())
    expected: Params = {
        name: sum(sizes[client] / total * update.params[name].double() for client, update in seen.items())  # type: ignore[misc]
        for name in start.params
    }
    for name, value in add(start.params, expected).items():
        torch.testing.assert_close(state.params[name], value)
    assert state.samples == total
    assert [line["split"] for line in jsonl.records(loop.folder.metrics)] == ["test", "train", "test"]


def test_too_few_sound_updates_end_the_run_and_keep_what_there_is(tmp_path: Path) -> None:
    experiment = build(tmp_path)
    loop = loop_of(experiment, tmp_path, dict.fromkeys("012", with_nan))
    with pytest.raises(TooFewClientsError, match=r"(?s)only 1 of 4 clients .* client 0 refused: non-finite") as raised:
        play(loop)
    assert (raised.value.exit_code, raised.value.repeats) == (4, True)
    assert len(events(loop)) == 3
    saved = load_checkpoint(loop.folder)
    assert saved is not None
    assert saved.state.round == 0


def test_exactly_the_quorum_is_enough(tmp_path: Path) -> None:
    loop = loop_of(build(tmp_path), tmp_path, dict.fromkeys("01", with_nan))
    assert play(loop).round == 2


def test_an_empty_poisson_cohort_leaves_the_model_and_is_a_round(tmp_path: Path) -> None:
    federation = {"clients": 6, "per_round": 0.1, "rounds": 6, "sampling": "poisson"}
    loop = loop_of(build(tmp_path, federation=federation), tmp_path)
    state = loop.start()
    steps = []
    for rounds in range(1, 7):
        before = digest(state.params)
        state = dataclasses.replace(loop._play_round(state)[0])
        steps.append(state.steps[-1])
        assert (digest(state.params) == before) == (steps[-1] == 0)
        assert state.round == rounds
    assert 0 in steps
    assert any(steps)


def test_weighted_sampling_counts_a_client_drawn_twice_twice(tmp_path: Path) -> None:
    federation = {"clients": 3, "per_round": 4, "rounds": 1, "sampling": "weighted"}  # 4 draws of 3: one comes twice
    with pytest.raises(RecipeError, match="4 clients a round"):
        build(tmp_path, federation=federation)
    federation = {"clients": 4, "per_round": 4, "rounds": 1, "sampling": "weighted"}
    seen: dict[str, Update] = {}

    def keep(update: Update) -> bytes:
        seen[update.client] = update
        return encode_update(update)

    for seed in range(20):
        experiment = build(tmp_path, federation=federation, seed=seed)
        sizes = experiment.data.clients
        drawn = sample_cohort(sizes, 4, sampling="weighted", seed=seed, round=1)
        if len(set(drawn.values())) > 1:
            break
    loop = loop_of(experiment, tmp_path, dict.fromkeys("0123", keep))
    start = loop.start()
    state = loop.play(start)
    assert set(seen) == set(drawn)
    expected: Params = {
        name: sum(drawn[client] / 4 * update.params[name].double() for client, update in seen.items())  # type: ignore[misc]
        for name in start.params
    }
    for name, value in add(start.params, expected).items():
        torch.testing.assert_close(state.params[name], value)


@dataclasses.dataclass
class OddRuntime(Exchanging):
    """Carries answers in reverse, one of them twice, one never, and one of somebody who was not asked."""

    honest: LocalRuntime

    def exchange(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, Content]]:
        answers = list(exchanged(self.honest, messages))
        yield from reversed(answers[1:])
        yield answers[-1]
        yield "stranger", answers[-1][1]


def test_whatever_a_runtime_does_every_client_counts_once_in_the_order_of_ids(tmp_path: Path) -> None:
    experiment = build(tmp_path)
    odd = RoundLoop(
        experiment, OddRuntime(LocalRuntime(experiment.worker)), RunFolder.create(tmp_path / "odd"), [], StopRequest()
    )
    state = play(odd)
    found = [(event["client"], event["kind"], event["reason"]) for event in events(odd) if event["round"] == 1]
    assert found == [
        ("3", "refused", "it answered twice"),
        ("stranger", "refused", "it was not asked"),
        ("0", "failed", "it gave no answer"),
    ]
    plain = loop_of(experiment, tmp_path, {"0": lambda update: Failure("0", "absent")})
    assert digest(play(plain).params) == digest(state.params)


def test_a_server_step_that_overflows_is_dropped_and_said(tmp_path: Path) -> None:
    experiment = build(tmp_path, algorithm={"name": "fedavgm", "server_lr": 1e38})

    def large(update: Update) -> bytes:
        return encode_update(dataclasses.replace(update, params=full_like(update.params, 10.0)))

    loop = loop_of(experiment, tmp_path, dict.fromkeys("0123", large))
    with pytest.raises(RecipeError, match="round 1 overflowed"):
        play(loop)
    saved = load_checkpoint(loop.folder)
    assert saved is not None
    assert saved.state.round == 0


def test_a_failed_round_leaves_its_events_and_nothing_else(tmp_path: Path) -> None:
    experiment = build(tmp_path, federation={"clients": 4, "per_round": 4, "rounds": 5}, checkpoint={"every": 10})

    def ill_in_round_3(update: Update) -> bytes | Failure:
        return Failure(update.client, "disk full") if update.round == 3 else encode_update(update)

    loop = loop_of(experiment, tmp_path, dict.fromkeys("012", ill_in_round_3))
    with pytest.raises(TooFewClientsError, match="only 1 of 4 clients gave a sound update in round 3") as raised:
        play(loop)
    assert not raised.value.repeats, "what failed may be well again"
    assert {message["round"] for message in jsonl.records(loop.folder.wire)} == {1, 2}
    saved = load_checkpoint(loop.folder)
    assert saved is not None
    assert saved.state.round == 2
    assert saved.offsets["wire.jsonl"] == loop.folder.wire.stat().st_size
    loop.folder.truncate(saved.offsets)
    assert [event["round"] for event in events(loop)] == [3, 3, 3]


class StopAt(Listener):
    """Asks to stop when a client of a round is through."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.loop: RoundLoop | None = None
        self.rounds: list[int] = []

    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        if round == self.number and done == 1 and self.loop is not None:
            self.loop.stop.requested = True

    def on_round(self, record: dict[str, Any]) -> None:
        self.rounds.append(record["round"])


def test_a_stop_ends_at_the_next_client_and_saves_the_last_whole_round(tmp_path: Path) -> None:
    listener = StopAt(3)
    federation = {"clients": 4, "per_round": 4, "rounds": 5}
    loop = loop_of(build(tmp_path, federation=federation, checkpoint={"every": 10}), tmp_path, listeners=[listener])
    listener.loop = loop
    with pytest.raises(InterruptedRunError, match="stopped in round 3"):
        play(loop)
    assert listener.rounds == [1, 2]
    saved = load_checkpoint(loop.folder)
    assert saved is not None
    assert saved.state.round == 2
    assert {line["round"] for line in jsonl.records(loop.folder.metrics)} == {0, 1, 2}


def test_evaluation_only_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    federation = {"clients": 4, "per_round": 1, "rounds": 5}
    loop = loop_of(build(tmp_path, federation=federation, evaluate={"every": 3}), tmp_path)
    play(loop)
    assert [line["round"] for line in jsonl.records(loop.folder.metrics) if line["split"] == "test"] == [0, 3, 5]


def test_early_stopping_follows_the_validation_set(tmp_path: Path) -> None:
    data = {**small_recipe(tmp_path)["data"], "validation": 0.3}
    frozen = {"batch_size": 5, "learning_rate": 1e-12}  # nothing improves after the first round
    experiment = build(
        tmp_path,
        data=data,
        local=frozen,
        evaluate={"patience": 2},
        federation={"clients": 4, "per_round": 4, "rounds": 50},
    )
    loop = loop_of(experiment, tmp_path)
    state = play(loop)
    assert state.best is not None
    assert (state.best.split, state.best.round, state.round) == ("validation", 1, 3)
    assert state.best_params
