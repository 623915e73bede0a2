"""Asynchronous rounds with clients that keep their own state: versions, staleness, order of arrival, the last step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fedfm.clients.store import ClientStore
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.runtimes.local import LocalRuntime
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.rounds.arrivals import arrivals_after
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.rounds.driver import Driver
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.state import RunState
from fedfm.server.runs.api import play_rounds
from fedfm.updates import Failure, Reply, Request, decode_instruction, decode_update
from tests.small import small_recipe

Choose = Callable[[Sequence[str]], str]
"""Clients that are at work → the one that answers next."""


class SitesHere(LocalRuntime):
    """Sites in this process: each keeps its state in its own store, and they answer in a chosen order."""

    keeps_state = True  # type: ignore[assignment]

    def __init__(self, experiment: Experiment, disk: Path, choose: Choose) -> None:
        assert experiment.worker is not None
        super().__init__(experiment.worker)
        self.store, self.choose = ClientStore(disk), choose
        self.asked: list[tuple[str, int, int]] = []
        """Client, round and the version of its state, of each message."""
        self._at_work: dict[str, Request] = {}

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            message = decode_instruction(request.message)
            self.asked.append((request.client, message.round, message.facts.continue_from))
            self._at_work[request.client] = request

    def next(self, timeout: float | None = None) -> Reply | None:
        if not self._at_work:
            return None
        request = self._at_work.pop(self.choose(list(self._at_work)))
        facts = decode_instruction(request.message).facts
        self.store.forget_before(request.client, facts.forget_before)
        super().submit([replace(request, state=self.store.get(request.client, facts.continue_from))])
        reply = super().next()
        assert reply is not None
        if reply.state is not None and not isinstance(reply.content, Failure):
            self.store.put(reply.client, decode_update(reply.content).round, reply.state)
        return replace(reply, state=None)


def first(waiting: Sequence[str]) -> str:
    return waiting[0]


def killed_after(*places: int) -> Choose:
    """Sites at these places of those at work answer; then the server is killed."""
    left = list(places)

    def choose(waiting: Sequence[str]) -> str:
        if not left:
            raise RuntimeError("killed")
        return waiting[left.pop(0)]

    return choose


@lru_cache
def three_steps() -> Experiment:
    changes = {
        "protocol": {"kind": "buffered", "size": 1, "max_staleness": 1},
        "updates": [{"kind": "top-k", "share": 0.1}],
        "tune": {"kind": "head"},
        "federation": {"clients": 2, "rounds": 3},
        "local": {"max_steps": 1, "batch_size": 2, "learning_rate": 0.01},
        "evaluate": {"every": 3},
        "checkpoint": {"every": 3},
    }
    with TemporaryDirectory() as folder:
        return build_experiment(load_recipe(small_recipe(Path(folder), **changes)))


def begin(
    built: Experiment, folder: Path, choose: Choose, *, resumed: bool = False
) -> tuple[Driver, SitesHere, RunFolder]:
    run = RunFolder(folder / "run") if resumed else RunFolder.create(folder / "run")
    runtime = SitesHere(built, folder / "sites", choose)
    return Driver(built, runtime, run, (), StopRequest()), runtime, run


def play(driver: Driver) -> RunState:
    return play_rounds(driver, driver.start())


def test_a_site_that_starts_again_goes_on_from_what_it_kept_in_this_step(tmp_path: Path) -> None:
    driver, runtime, _ = begin(three_steps(), tmp_path, killed_after(-1, -1, -1))
    state = play(driver)
    kept: dict[str, int] = {}
    for client, number, continued in runtime.asked:
        assert continued == kept.get(client, 0)
        kept[client] = number  # every answer is sound and fresh
    assert len(runtime.asked) > len(kept)
    assert state.versions.keys() <= kept.keys()


def test_an_update_that_is_too_old_advances_no_state(tmp_path: Path) -> None:
    places = iter([-1, -1, 0, 0])
    driver, runtime, run = begin(three_steps(), tmp_path, lambda waiting: waiting[next(places)])
    state = play(driver)
    (late,) = [event for event in jsonl.records(run.events) if event["kind"] == "late"]
    assert (late["round"], late["client"]) == (3, runtime.asked[0][0])
    assert late["client"] not in state.versions
    assert state.contributions[late["client"]].late == 1
    assert len([line for line in jsonl.records(run.wire) if line["direction"] == "up"]) == 4


def test_no_site_starts_after_the_last_step(tmp_path: Path) -> None:
    driver, runtime, _ = begin(three_steps(), tmp_path, first)
    play(driver)
    assert max(number for _, number, _ in runtime.asked) == 3


def test_a_resumed_run_folds_in_the_order_of_arrival_however_often_it_is_interrupted(tmp_path: Path) -> None:
    built = three_steps()
    driver, _, run = begin(built, tmp_path, killed_after(-1, 0))
    initial = driver.start()
    with pytest.raises(RuntimeError, match="killed"):  # in step 3; the only checkpoint is that before round 1
        play_rounds(driver, initial)
    found = [arrival.client for arrival in arrivals_after(run, 0)]
    assert len(found) == 2
    for dies in (True, False):
        saved = load_checkpoint(run)
        assert saved is not None
        run.truncate(saved.offsets)
        driver, _, _ = begin(built, tmp_path, killed_after() if dies else first, resumed=True)
        if dies:
            with pytest.raises(RuntimeError, match="killed"):
                play_rounds(driver, saved.state)
    assert play_rounds(driver, saved.state).round == 3
    assert [arrival.client for arrival in arrivals_after(run, 0)][:2] == found
    folded = [line["clients"][0] for line in jsonl.records(run.wire) if line["direction"] == "up"]
    assert folded[:2] == found
