"""The driver with real clients and a runtime that tampers: what is refused, what is recorded, what continues."""

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
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.local import LocalRuntime
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.rounds.driver import Driver
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.sampling import sample_cohort
from fedfm.server.rounds.state import RunState
from fedfm.server.runs.api import play_rounds
from fedfm.trackers.listeners import Listener
from fedfm.updates import Failure, Reply, Request, Update, decode_update
from fedfm.wire import TUNABLE
from tests.asked import Content, Exchanging, exchanged
from tests.events import irregular
from tests.small import small_recipe

Tamper = Callable[[Update], bytes | Failure]


class TamperingRuntime(LocalRuntime):
    """Carries everything as it is, except for the updates of some clients."""

    def __init__(self, experiment: Experiment, tampers: Mapping[str, Tamper]) -> None:
        assert experiment.worker is not None
        super().__init__(experiment.worker)
        self.tampers = tampers

    def next(self, timeout: float | None = None) -> Reply | None:
        reply = super().next(timeout)
        if reply is None or reply.client not in self.tampers:
            return reply
        assert not isinstance(reply.content, Failure)
        return dataclasses.replace(reply, content=self.tampers[reply.client](decode_update(reply.content)))


def build(folder: Path, **changes: Any) -> Experiment:
    federation = {"clients": 4, "per_round": 4, "rounds": 2}
    return build_experiment(load_recipe(small_recipe(folder, **{"federation": federation, **changes})))


def driver_of(
    experiment: Experiment, folder: Path, tampers: dict[str, Tamper] | None = None, listeners: Sequence[Listener] = ()
) -> Driver:
    return driven(experiment, TamperingRuntime(experiment, tampers or {}), folder, listeners)


def driven(experiment: Experiment, runtime: Runtime, folder: Path, listeners: Sequence[Listener] = ()) -> Driver:
    return Driver(experiment, runtime, RunFolder.create(folder / "run"), listeners, StopRequest())


def play_round(driver: Driver, state: RunState) -> RunState:
    """The state after one more round, which is not saved."""
    exchange = driver.begin(state)
    return driver._ended(exchange, driver.recipe.protocol.step(exchange.state.protocol, exchange))[0]


def play(driver: Driver) -> RunState:
    return play_rounds(driver, driver.start())


def events(driver: Driver) -> list[dict[str, Any]]:
    return irregular(jsonl.records(driver.folder.events))


def stating(update: Update, **facts: Any) -> bytes:
    """The update with other facts."""
    return dataclasses.replace(update, facts=update.facts.model_copy(update=facts)).encode()


def sending(update: Update, params: Params, **facts: Any) -> bytes:
    """The update with other values."""
    return stating(dataclasses.replace(update, groups={**update.groups, TUNABLE: params}), **facts)


def with_nan(update: Update) -> bytes:
    params = map_params(torch.clone, dict(update.groups[TUNABLE]))
    next(iter(params.values())).view(-1)[0] = float("nan")
    return sending(update, params, loss=None)


def absent(update: Update) -> Failure:
    return Failure(update.facts.client, "absent")


def out_of_memory(update: Update) -> Failure:
    return Failure(update.facts.client, "out of memory")


TAMPERS: dict[str, tuple[Tamper, str, str]] = {
    "nan": (with_nan, "refused", "non-finite values in 1 of"),
    "failure": (out_of_memory, "failed", "out of memory"),
    "garbage": (lambda update: b"garbage", "refused", "not a fedfm message"),
    "other client": (lambda update: stating(update, client="somebody"), "refused", "it names client `somebody`"),
    "late": (lambda update: dataclasses.replace(update, round=update.round - 1).encode(), "refused", "not round"),
    "other work": (
        lambda update: dataclasses.replace(update, work="evaluate").encode(),
        "refused",
        "it answers work `evaluate`, not `train`",
    ),
    "no loss": (lambda update: stating(update, loss=None), "refused", "its loss is not a number"),
    "no work": (lambda update: stating(update, steps=0), "refused", "0 steps"),
    "greedy": (lambda update: stating(update, examples=10**12), "refused", "claims"),
    "state": (lambda update: stating(update, state="0" * 64), "refused", "it names a state that it should not keep"),
}


@pytest.mark.parametrize("tamper", TAMPERS)
def test_t01_t09_t12_t13_an_unsound_update_is_refused_recorded_and_as_if_never_sent(
    tmp_path: Path, tamper: str
) -> None:
    change, kind, reason = TAMPERS[tamper]
    experiment = build(tmp_path)
    driver = driver_of(experiment, tmp_path, {"1": change})
    state = play(driver)
    assert [(event["round"], event["client"], event["kind"]) for event in events(driver)] == [
        (1, "1", kind),
        (2, "1", kind),
    ]
    assert all(reason in event["reason"] for event in events(driver))
    assert (state.failed, state.refused) == ((2, 0) if kind == "failed" else (0, 2))

    # The same federation in which client 1 is never asked: its examples weigh nothing.
    (tmp_path / "without").mkdir()
    other = driver_of(experiment, tmp_path / "without", {"1": absent})
    assert digest(play(other).params) == digest(state.params)


class Watching(TamperingRuntime):
    """Knows where the messages were that went out."""

    def submit(self, requests: Sequence[Request]) -> None:
        (message,) = {id(request.message): request.message for request in requests}.values()
        start = np.frombuffer(message, dtype=np.uint8).ctypes.data
        self.there = range(start, start + len(message))
        super().submit(requests)


def test_what_was_sent_and_what_it_was_sent_from_are_in_one_place(tmp_path: Path) -> None:
    experiment = build(tmp_path, federation={"clients": 4, "per_round": 4, "rounds": 1})
    runtime = Watching(experiment, {})
    driver = driven(experiment, runtime, tmp_path)
    start = driver.start()
    before = digest(start.params)
    play_rounds(driver, start)
    assert all(tensor.data_ptr() in runtime.there for tensor in start.params.values())
    assert digest(start.params) == before


class Backwards(TamperingRuntime):
    """The clients that were asked last answer first."""

    def submit(self, requests: Sequence[Request]) -> None:
        super().submit(requests[::-1])


def test_where_spares_are_asked_the_first_count_and_the_others_are_not_waited_for(tmp_path: Path) -> None:
    federation = {"clients": 4, "per_round": 2, "rounds": 1, "quorum": 1.0}
    experiment = build(tmp_path, federation=federation, runtime={"kind": "ray", "spares": 1.0, "stack": 1})
    lost = {"2": out_of_memory}
    driver = driven(experiment, Backwards(experiment, lost), tmp_path)
    state = play(driver)
    kinds = {event["client"]: (event["kind"], event["reason"]) for event in events(driver)}
    assert kinds == {"2": ("failed", "out of memory"), "0": ("late", "2 others were faster")}
    assert (state.failed, state.refused) == (1, 0)
    lines = [line for line in jsonl.records(driver.folder.wire) if line["direction"] == "up"]
    assert [line["clients"] for line in lines] == [["3"], ["1"]]

    (tmp_path / "two").mkdir()
    missing = dict.fromkeys("02", absent)
    everybody = {**federation, "per_round": 4, "quorum": 0.5}
    all_four = build(tmp_path / "two", federation=everybody, runtime={"stack": 1})
    assert digest(play(driver_of(all_four, tmp_path / "two", missing)).params) == digest(state.params)


def test_too_few_of_those_that_were_asked_are_too_few(tmp_path: Path) -> None:
    federation = {"clients": 4, "per_round": 2, "rounds": 1, "quorum": 1.0}
    experiment = build(tmp_path, federation=federation, runtime={"kind": "ray", "spares": 1.0})
    lost = dict.fromkeys("123", out_of_memory)
    with pytest.raises(TooFewClientsError, match="only 1 of 2 clients"):
        play(driver_of(experiment, tmp_path, lost))


def test_one_round_is_the_weighted_mean_of_the_updates(tmp_path: Path) -> None:
    federation = {"clients": 4, "per_round": 4, "rounds": 1, "partition": {"kind": "quantity", "alpha": 0.5}}
    experiment = build(tmp_path, federation=federation)
    seen: dict[str, Update] = {}

    def keep(update: Update) -> bytes:
        seen[update.facts.client] = update
        return update.encode()

    driver = driver_of(experiment, tmp_path, dict.fromkeys("0123", keep))
    start = driver.start()
    state = play_rounds(driver, start)
    sizes = experiment.data.clients
    assert len(set(sizes.values())) > 1
    total = sum(sizes.values())
    expected: Params = {
        name: sum(sizes[client] / total * update.groups[TUNABLE][name].double() for client, update in seen.items())  # type: ignore[misc]
        for name in start.params
    }
    for name, value in add(start.params, expected).items():
        torch.testing.assert_close(state.params[name], value)
    assert state.samples == total
    assert [line["split"] for line in jsonl.records(driver.folder.metrics)] == ["test", "train", "test"]


def test_t04_t09_too_few_sound_updates_end_the_run_and_keep_what_there_is(tmp_path: Path) -> None:
    experiment = build(tmp_path)
    driver = driver_of(experiment, tmp_path, dict.fromkeys("012", with_nan))
    with pytest.raises(TooFewClientsError, match=r"(?s)only 1 of 4 clients .* client 0 refused: non-finite") as raised:
        play(driver)
    assert (raised.value.exit_code, raised.value.repeats) == (4, True)
    assert len(events(driver)) == 3
    saved = load_checkpoint(driver.folder)
    assert saved is not None
    assert saved.state.round == 0


def test_exactly_the_quorum_is_enough(tmp_path: Path) -> None:
    driver = driver_of(build(tmp_path), tmp_path, dict.fromkeys("01", with_nan))
    assert play(driver).round == 2


def test_an_empty_poisson_cohort_leaves_the_model_and_is_a_round(tmp_path: Path) -> None:
    federation = {"clients": 6, "per_round": 0.1, "rounds": 6, "sampling": "poisson"}
    driver = driver_of(build(tmp_path, federation=federation), tmp_path)
    state = driver.start()
    steps = []
    for rounds in range(1, 7):
        before = digest(state.params)
        state = play_round(driver, state)
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
        seen[update.facts.client] = update
        return update.encode()

    for seed in range(20):
        experiment = build(tmp_path, federation=federation, seed=seed)
        sizes = experiment.data.clients
        drawn = sample_cohort(sizes, 4, sampling="weighted", seed=seed, round=1)
        if len(set(drawn.values())) > 1:
            break
    driver = driver_of(experiment, tmp_path, dict.fromkeys("0123", keep))
    start = driver.start()
    state = play_rounds(driver, start)
    assert set(seen) == set(drawn)
    expected: Params = {
        name: sum(drawn[client] / 4 * update.groups[TUNABLE][name].double() for client, update in seen.items())  # type: ignore[misc]
        for name in start.params
    }
    for name, value in add(start.params, expected).items():
        torch.testing.assert_close(state.params[name], value)


@dataclasses.dataclass
class OddRuntime(Exchanging):
    """Carries answers in reverse, one of them twice, one never, and one of a client that was not asked."""

    honest: LocalRuntime

    def exchange(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, Content]]:
        answers = list(exchanged(self.honest, messages))
        yield from reversed(answers[1:])
        yield answers[-1]
        yield "stranger", answers[-1][1]


def test_t18_whatever_a_runtime_does_every_client_counts_once_in_the_order_of_ids(tmp_path: Path) -> None:
    experiment = build(tmp_path)
    (tmp_path / "odd").mkdir()
    assert experiment.worker is not None
    odd = driven(experiment, OddRuntime(LocalRuntime(experiment.worker)), tmp_path / "odd")
    state = play(odd)
    found = [(event["client"], event["kind"], event["reason"]) for event in events(odd) if event["round"] == 1]
    assert found == [
        ("3", "refused", "it answered twice"),
        ("stranger", "refused", "it was not asked"),
        ("0", "failed", "it gave no answer"),
    ]
    plain = driver_of(experiment, tmp_path, {"0": absent})
    assert digest(play(plain).params) == digest(state.params)


def test_a_server_step_that_overflows_is_dropped_and_reported(tmp_path: Path) -> None:
    experiment = build(tmp_path, algorithm={"name": "fedavgm", "server_lr": 1e38})

    def large(update: Update) -> bytes:
        return sending(update, full_like(dict(update.groups[TUNABLE]), 10.0))

    driver = driver_of(experiment, tmp_path, dict.fromkeys("0123", large))
    with pytest.raises(RecipeError, match="round 1 overflowed"):
        play(driver)
    saved = load_checkpoint(driver.folder)
    assert saved is not None
    assert saved.state.round == 0


def test_a_failed_round_leaves_its_events_and_nothing_else(tmp_path: Path) -> None:
    experiment = build(tmp_path, federation={"clients": 4, "per_round": 4, "rounds": 5}, checkpoint={"every": 10})

    def ill_in_round_3(update: Update) -> bytes | Failure:
        return Failure(update.facts.client, "disk full") if update.round == 3 else update.encode()

    driver = driver_of(experiment, tmp_path, dict.fromkeys("012", ill_in_round_3))
    with pytest.raises(TooFewClientsError, match="only 1 of 4 clients gave a sound update in round 3") as raised:
        play(driver)
    assert not raised.value.repeats, "what failed may succeed the next time"
    assert {message["round"] for message in jsonl.records(driver.folder.wire)} == {1, 2}
    saved = load_checkpoint(driver.folder)
    assert saved is not None
    assert saved.state.round == 2
    assert saved.offsets["wire.jsonl"] == driver.folder.wire.stat().st_size
    driver.folder.truncate(saved.offsets)
    assert [event["round"] for event in events(driver)] == [3, 3, 3]


class StopAt(Listener):
    """Asks to stop when the first client of a round has answered."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.driver: Driver | None = None
        self.rounds: list[int] = []

    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        if round == self.number and done == 1 and self.driver is not None:
            self.driver.stop.requested = True

    def on_round(self, record: dict[str, Any]) -> None:
        self.rounds.append(record["round"])


def test_a_stop_ends_at_the_next_client_and_saves_the_last_whole_round(tmp_path: Path) -> None:
    listener = StopAt(3)
    federation = {"clients": 4, "per_round": 4, "rounds": 5}
    driver = driver_of(build(tmp_path, federation=federation, checkpoint={"every": 10}), tmp_path, listeners=[listener])
    listener.driver = driver
    with pytest.raises(InterruptedRunError, match="stopped in round 3"):
        play(driver)
    assert listener.rounds == [1, 2]
    saved = load_checkpoint(driver.folder)
    assert saved is not None
    assert saved.state.round == 2
    assert {line["round"] for line in jsonl.records(driver.folder.metrics)} == {0, 1, 2}


def test_evaluation_only_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    federation = {"clients": 4, "per_round": 1, "rounds": 5}
    driver = driver_of(build(tmp_path, federation=federation, evaluate={"every": 3}), tmp_path)
    play(driver)
    assert [line["round"] for line in jsonl.records(driver.folder.metrics) if line["split"] == "test"] == [0, 3, 5]


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
    driver = driver_of(experiment, tmp_path)
    state = play(driver)
    assert state.best is not None
    assert (state.best.split, state.best.round, state.round) == ("validation", 1, 3)
    assert state.best_params
