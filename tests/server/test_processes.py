"""Several processes give the same bits as one, and a process that ends is reported."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.runtimes.local import LocalRuntime
from fedfm.runtimes.processes import ProcessRuntime, can_fork
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.updates import Failure, Reply, Request, decode_update
from tests.asked import exchanged, instruction
from tests.small import small_recipe

pytestmark = pytest.mark.skipif(not can_fork(), reason="this system cannot fork processes that compute")

PROXY = {"kind": "fedpft", "ffn_keep": 0.5, "keep_layers": [], "closed_form": False, "distill": None}
ALIGN = {"interval": 2, "align": {"share": 0.5, "steps": 2, "batch_size": 4}}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    recipe = small_recipe(tmp_path_factory.mktemp("data"), runtime={"stack": 2})
    return build_experiment(load_recipe(recipe))


@pytest.fixture
def runtime(experiment: Experiment) -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime(experiment.worker, 2)
    yield runtime
    runtime.close()


def asked(experiment: Experiment, number: int = 1) -> dict[str, bytes]:
    message = instruction(experiment.start, number=number)
    return dict.fromkeys(experiment.worker.clients, message)


def pids() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def test_answers_are_those_of_one_process(experiment: Experiment, runtime: ProcessRuntime) -> None:
    for number in (1, 2):
        messages = asked(experiment, number)
        alone = dict(exchanged(LocalRuntime(experiment.worker), messages))
        assert dict(exchanged(runtime, messages)) == alone


def test_processes_stay_for_the_next_round_and_end_with_the_runtime(
    experiment: Experiment, runtime: ProcessRuntime
) -> None:
    before = pids()
    list(exchanged(runtime, asked(experiment)))
    there = pids() - before
    assert len(there) == 2
    list(exchanged(runtime, asked(experiment, 2)))
    assert pids() - before == there
    runtime.close()
    assert not pids() & there


def test_a_caller_that_stops_listening_stops_them(experiment: Experiment, runtime: ProcessRuntime) -> None:
    before = pids()
    next(exchanged(runtime, asked(experiment)))
    runtime.drop()
    assert pids() == before
    assert len(list(exchanged(runtime, asked(experiment)))) == 6


def test_t02_a_process_that_dies_fails_its_clients_only(
    experiment: Experiment, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Any, requests: Iterable[Request]) -> Iterator[Reply]:
        clients = [request.client for request in requests]
        if "3" in clients:
            os.kill(os.getpid(), signal.SIGKILL)
        return iter([Reply(client, b"answer") for client in clients])

    monkeypatch.setattr("fedfm.clients.Worker.answer", die)
    answers = dict(exchanged(runtime, asked(experiment)))
    assert answers.keys() == experiment.worker.clients.keys()
    failed = {client for client, answer in answers.items() if isinstance(answer, Failure)}
    assert failed == {"2", "3"}
    assert "SIGKILL" in answers["2"].reason  # type: ignore[union-attr]
    assert "lower runtime.processes" in answers["2"].reason  # type: ignore[union-attr]


def test_a_process_that_died_idle_is_replaced(experiment: Experiment, runtime: ProcessRuntime) -> None:
    before = pids()
    list(exchanged(runtime, asked(experiment)))
    for pid in pids() - before:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    answers = dict(exchanged(runtime, asked(experiment, 2)))
    assert len(answers) == 6
    assert not [answer for answer in answers.values() if isinstance(answer, Failure)]


def test_a_slow_pass_keeps_the_others_from_running_far_ahead(
    experiment: Experiment, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = multiprocessing.get_context("fork").Event()

    def answer(self: Any, requests: Iterable[Request]) -> Iterator[Reply]:
        clients = [request.client for request in requests]
        if "000" in clients:
            waiting.wait(30)
        return iter([Reply(client, b"answer") for client in clients])

    monkeypatch.setattr("fedfm.clients.Worker.answer", answer)
    monkeypatch.setattr("fedfm.clients.Worker.prepare", lambda self, messages: None)
    clients = [f"{number:03}" for number in range(100)]  # 50 passes, of which 8 may be dealt with the first
    came = []
    for client, _ in exchanged(runtime, dict.fromkeys(clients, b"message")):
        came.append(client)
        if len(came) == 14:
            waiting.set()
    assert sorted(came) == clients
    assert came[:14] == clients[2:16]


def test_a_failure_of_a_client_comes_across(experiment: Experiment, runtime: ProcessRuntime) -> None:
    message = instruction({})
    answers = list(exchanged(runtime, {"0": message, "1": message}))
    assert [type(answer) for _, answer in answers] == [Failure, Failure]
    assert "Traceback" in answers[0][1].details  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"task": {"kind": "masked-lm"}},
        {"task": {"kind": "causal-lm"}, "model": {"path": "builtin:tiny-gpt2"}},
        {"proxy": PROXY | ALIGN, "public": {"data": "builtin:pydoc", "limit": 40}},
    ],
    ids=["classes", "masked-lm", "causal-lm", "proxy"],
)
def test_a_run_is_the_same_with_any_number_of_processes(tmp_path: Path, changes: dict[str, Any]) -> None:
    wires, losses = [], []
    for processes in (1, 2):
        recipe = small_recipe(tmp_path, runtime={"stack": 1, "processes": processes}, **changes)
        run = fedfm.run(load_recipe({**recipe, "run_dir": str(tmp_path / str(processes))}))
        wires.append((run.path / "wire.jsonl").read_text())
        losses.append(run.metrics["loss"].dropna().tolist())
    assert wires[0] == wires[1]
    assert losses[0] == losses[1]
    assert not multiprocessing.active_children()


def test_updates_are_sound(experiment: Experiment, runtime: ProcessRuntime) -> None:
    for client, answer in exchanged(runtime, asked(experiment)):
        assert isinstance(answer, bytes)
        assert decode_update(answer).facts.client == client


def test_auto_keeps_small_runs_in_one_process(experiment: Experiment) -> None:
    assert experiment.processes == 1


def test_several_are_refused_where_there_can_be_but_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedfm.hosts.parallelism.can_fork", lambda: False)
    with pytest.raises(RecipeError, match="more than one process needs Linux and a CPU"):
        build_experiment(load_recipe(small_recipe(tmp_path, runtime={"processes": 2})))
