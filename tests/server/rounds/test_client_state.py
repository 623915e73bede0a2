"""What clients keep between rounds: a refused update advances nothing, and versions that may be needed again stay."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm.params import digest, map_params
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.runtimes.local import LocalRuntime
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.rounds.driver import Driver
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.state import RunState
from fedfm.server.runs.api import play_rounds
from fedfm.updates import Failure, Reply, Request, decode_update
from fedfm.wire import TUNABLE
from tests.server.rounds.test_driver import play_round
from tests.small import small_recipe

Change = Callable[[int, Reply], Reply]
"""Round and reply → what is carried in its place."""


class Carrier(LocalRuntime):
    """Carries replies as they are, except for a change, and remembers what clients continued from."""

    def __init__(self, experiment: Experiment, change: Change, *, backwards: bool = False) -> None:
        assert experiment.worker is not None
        super().__init__(experiment.worker)
        self.change, self.backwards = change, backwards
        self.rounds: list[dict[str, bytes | None]] = []

    def submit(self, requests: Sequence[Request]) -> None:
        self.rounds.append({request.client: request.state for request in requests})
        super().submit(requests[::-1] if self.backwards else requests)

    def next(self, timeout: float | None = None) -> Reply | None:
        reply = super().next(timeout)
        return None if reply is None else self.change(len(self.rounds), reply)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    federation = {"clients": 4, "per_round": 3, "rounds": 5}
    recipe = small_recipe(
        tmp_path_factory.mktemp("data"),
        federation=federation,
        algorithm={"name": "scaffold"},
        local={"batch_size": 5, "learning_rate": 0.01, "epochs": 1, "optimizer": "sgd", "max_grad_norm": None},
        evaluate={"every": 5},
    )
    return build_experiment(load_recipe(recipe))


def driver(
    experiment: Experiment, folder: Path, change: Change = lambda number, reply: reply, *, backwards: bool = False
) -> tuple[Driver, Carrier]:
    runtime = Carrier(experiment, change, backwards=backwards)
    return Driver(experiment, runtime, RunFolder(folder), [], StopRequest()), runtime


def play(experiment: Experiment, folder: Path, *changes: Change, **more: Any) -> tuple[RunState, Driver, Carrier]:
    RunFolder.create(folder)
    playing, runtime = driver(experiment, folder, *changes, **more)
    return play_rounds(playing, playing.start()), playing, runtime


def kept(driver: Driver, client: str) -> dict[int, str]:
    """Versions of a client's state on disk → sha256."""
    folder = driver.store.folder / hashlib.sha256(client.encode()).hexdigest()[:32]
    return {int(path.stem): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def asked(driver: Driver, number: int) -> list[str]:
    """Clients that were asked in a round."""
    lines = jsonl.records(driver.folder.wire)
    return [
        client for line in lines if (line["round"], line["direction"]) == (number, "down") for client in line["clients"]
    ]


def outcome(state: RunState) -> tuple[str, str, dict[str, Any]]:
    """All that a resumed run must give again."""
    control = digest(
        {f"{group}/{name}": value for group, v in state.protocol.server.items() for name, value in v.items()}
    )
    return digest(state.params), control, dict(state.versions)


def with_nan(reply: Reply) -> Reply:
    assert not isinstance(reply.content, Failure)
    update = decode_update(reply.content)
    params = map_params(torch.clone, dict(update.groups[TUNABLE]))
    next(iter(params.values())).view(-1)[0] = float("nan")
    return dataclasses.replace(
        reply, content=dataclasses.replace(update, groups={**update.groups, TUNABLE: params}).encode()
    )


UNSOUND: dict[str, Callable[[Reply], Reply]] = {
    "values": with_nan,
    "no message": lambda reply: dataclasses.replace(reply, content=b"garbage"),
    "failure": lambda reply: Reply(reply.client, Failure(reply.client, "out of memory")),
    "another state": lambda reply: dataclasses.replace(reply, state=b"another"),
    "no state": lambda reply: dataclasses.replace(reply, state=None),
}


@pytest.fixture(scope="module")
def busiest(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[int]]:
    """A client, and the rounds in which it is asked, at least three."""
    _, _, runtime = play(experiment, tmp_path_factory.mktemp("runs") / "run")
    rounds = {client: [n for n, asked in enumerate(runtime.rounds, 1) if client in asked] for client in "0123"}
    client = max(rounds, key=lambda each: len(rounds[each]))
    assert len(rounds[client]) >= 3
    return client, rounds[client]


@pytest.mark.parametrize("unsound", UNSOUND)
def test_an_update_that_does_not_count_advances_no_state(
    experiment: Experiment, busiest: tuple[str, list[int]], tmp_path: Path, unsound: str
) -> None:
    client, (first, second, third, *_) = busiest

    def change(number: int, reply: Reply) -> Reply:
        return UNSOUND[unsound](reply) if (reply.client, number) == (client, second) else reply

    RunFolder.create(tmp_path / "run")
    playing, runtime = driver(experiment, tmp_path / "run", change)
    state = playing.start()
    for _ in range(second):
        state = play_round(playing, state)
    assert state.versions[client].number == first
    assert set(kept(playing, client)) == {first}
    others = runtime.rounds[-1].keys() - {client}
    assert {state.versions[other].number for other in others} == {second}

    while state.round < third:
        state = play_round(playing, state)
    continued = runtime.rounds[third - 1][client]
    assert continued is not None
    assert hashlib.sha256(continued).hexdigest() == kept(playing, client)[first]
    assert state.versions[client].number == third


def test_states_older_than_the_oldest_checkpoint_are_gone_and_those_needed_stay(
    experiment: Experiment, tmp_path: Path
) -> None:
    state, playing, _ = play(experiment, tmp_path / "run")
    assert state.round == 5
    keep = experiment.recipe.checkpoint.keep
    assert keep == 2
    newest = load_checkpoint(playing.folder)
    (playing.folder.checkpoints / "round-0005" / "state.json").write_text("damaged")
    oldest = load_checkpoint(playing.folder)
    assert newest is not None
    assert oldest is not None
    assert (newest.state.round, oldest.state.round) == (5, 4)
    for client in "0123":
        versions = {saved.state.versions[client].number for saved in (newest, oldest)}
        assert set(kept(playing, client)) == versions
        for saved in (newest, oldest):
            version = saved.state.versions[client]
            assert kept(playing, client)[version.number] == version.sha256


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(experiment: Experiment, tmp_path: Path) -> None:
    state, playing, _ = play(experiment, tmp_path / "run")
    wire = playing.folder.wire.read_bytes()
    (playing.folder.checkpoints / "round-0005" / "params.safetensors").write_bytes(b"damaged")
    saved = load_checkpoint(playing.folder)
    assert saved is not None
    assert saved.state.round == 4
    playing.folder.truncate(saved.offsets)
    again, _ = driver(experiment, tmp_path / "run")
    assert outcome(play_rounds(again, saved.state)) == outcome(state)
    assert playing.folder.wire.read_bytes() == wire
    assert {client: kept(again, client) for client in "0123"} == {client: kept(playing, client) for client in "0123"}


def test_a_server_killed_after_answers_were_stored_plays_the_same_round_again(
    experiment: Experiment, tmp_path: Path
) -> None:
    state, whole, _ = play(experiment, tmp_path / "whole")

    def kill(number: int, reply: Reply) -> Reply:
        if number == 3 and reply.client == last:
            raise KeyboardInterrupt
        return reply

    last = max(asked(whole, 3))
    with pytest.raises(KeyboardInterrupt):
        play(experiment, tmp_path / "run", kill)
    again, runtime = driver(experiment, tmp_path / "run")
    assert sum(3 in kept(again, client) for client in "0123") == 2, "answers of the unfinished round are on disk"
    saved = load_checkpoint(again.folder)
    assert saved is not None
    assert saved.state.round == 2
    again.folder.truncate(saved.offsets)
    assert outcome(play_rounds(again, saved.state)) == outcome(state)
    assert len(runtime.rounds) == 3
    assert again.folder.wire.read_bytes() == whole.folder.wire.read_bytes()


def test_t18_the_order_of_replies_changes_nothing(experiment: Experiment, tmp_path: Path) -> None:
    state, playing, _ = play(experiment, tmp_path / "run")
    other, backwards, _ = play(experiment, tmp_path / "backwards", backwards=True)
    assert outcome(other) == outcome(state)
    assert backwards.folder.wire.read_bytes() == playing.folder.wire.read_bytes()
