"""The first method of each kind is the same under every runtime, and the same again after an interruption."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest

from fedfm.clients import Worker
from fedfm.hosts.node import Node
from fedfm.params import digest
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.line import Line
from fedfm.runtimes.local import LocalRuntime
from fedfm.runtimes.processes import ProcessRuntime
from fedfm.runtimes.relay import RelayLine
from fedfm.runtimes.settings import Flower, Ray
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.experiment.runtime_factory import over_nodes
from fedfm.server.rounds import checkpoints, driver
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.rounds.driver import Driver
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.state import RunState
from fedfm.server.runs.api import play_rounds
from fedfm.updates import Failure, Reply
from tests.alike import METHODS
from tests.events import irregular
from tests.small import small_recipe
from tests.started import finish

FEDERATION = {"clients": 6, "per_round": 3, "rounds": 3}
SHOWN = ("scaffold", "top-k and int8")
"""Methods that are interrupted while writing, and that every run of the tests plays over Flower.

`make test-matrix` plays all over these.
"""

ALL = pytest.mark.skipif("FEDFM_MATRIX" not in os.environ, reason="minutes; `make test-matrix` runs it")


def build(folder: Path, name: str) -> Experiment:
    """The experiment of a method; two clients in one pass."""
    return experiment_of(folder, METHODS[name])


def experiment_of(folder: Path, method: dict[str, Any]) -> Experiment:
    federation = {**FEDERATION, **method.get("federation", {})}
    return build_experiment(
        load_recipe(small_recipe(folder, **{**method, "federation": federation, "runtime": {"stack": 2}}))
    )


def outcome(folder: RunFolder, state: RunState) -> dict[str, Any]:
    """Everything that must be equal: tensors, the digest of what each client keeps, the ledger, the events."""
    groups = {"tunable": state.params, **state.protocol.server}
    return {
        "tensors": {name: digest(group) for name, group in groups.items()},
        "facts": json.loads(json.dumps(state.protocol.facts)),
        "clients": {client: [kept.number, kept.sha256] for client, kept in sorted(state.versions.items())},
        "bytes": [state.bytes_down, state.bytes_up],
        "ledger": list(jsonl.records(folder.wire)),
        "events": irregular(jsonl.records(folder.events)),
    }


def play(experiment: Experiment, runtime: Runtime, path: Path) -> dict[str, Any]:
    """The outcome of a run, or of the rest of a run that was interrupted, without baselines and report."""
    folder = RunFolder(path)
    path.mkdir(exist_ok=True, parents=True)
    saved = load_checkpoint(folder)
    if saved is not None:
        folder.truncate(saved.offsets)
    loop = Driver(experiment, runtime, folder, [], StopRequest())
    return outcome(folder, play_rounds(loop, loop.start() if saved is None else saved.state))


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def experiment(method: str, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return build(tmp_path_factory.mktemp("method"), method)


@pytest.fixture(scope="module")
def local(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome in one process, without an interruption."""
    assert experiment.worker is not None
    found = play(experiment, LocalRuntime(experiment.worker), tmp_path_factory.mktemp("run") / "local")
    assert irregular(found["events"]) == []
    return found


def grid_line(path: Path) -> Line:
    """A line to two nodes over an in-process Grid of Flower."""
    from fedfm.runtimes.flower.apps import make_client_app, relay
    from fedfm.runtimes.flower.in_process import InProcessGrid

    nodes = {1: Node(), 2: Node()}
    grid = InProcessGrid(make_client_app(lambda context: nodes[context.node_id].handle), [{}, {}])
    line = RelayLine(path, nodes=2, patience=10, deadline=60)
    threading.Thread(target=relay, args=(grid, path), kwargs={"poll": 0.0}, daemon=True).start()
    return line


def test_with_two_processes(experiment: Experiment, local: dict[str, Any], tmp_path: Path) -> None:
    assert experiment.worker is not None
    with closing(ProcessRuntime(experiment.worker, 2)) as runtime:
        assert play(experiment, runtime, tmp_path / "run") == local


def test_over_flowers_grid(experiment: Experiment, local: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="the extra `flower` is not installed")
    with closing(over_nodes(experiment, grid_line(tmp_path / "relay"))) as runtime:
        assert play(experiment, runtime, tmp_path / "run") == local


FEDAVG: dict[str, dict[str, Any]] = {
    "top-k of all values": {"updates": [{"kind": "top-k", "share": 1.0}]},
    "top-k of all values, without error feedback": {
        "updates": [{"kind": "top-k", "share": 1.0, "error_feedback": False}]
    },
    "random-k of all values": {"updates": [{"kind": "random-k", "share": 1.0}]},
    "one edge that sends every round": {"protocol": {"kind": "hierarchical", "edges": 1, "edge_rounds": 1}},
    "buffered without delay, the cohort in its buffer": {"protocol": {"kind": "buffered", "size": 3}},
    "equal ranks, weights by examples": {
        "aggregate": {"rule": "hetlora", "weights": "examples"},
        "federation": {"ranks": [8]},
    },
}
"""Methods at their limits, where they are FedAvg."""


@pytest.fixture(scope="module")
def fedavg(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return losses_and_digest(tmp_path_factory.mktemp("fedavg"), {})


def losses_and_digest(folder: Path, method: dict[str, Any]) -> list[str]:
    """The digest of the tunable after the last round, and every loss on the way."""
    experiment = experiment_of(folder, method)
    assert experiment.worker is not None
    tunable = play(experiment, LocalRuntime(experiment.worker), folder / "run")["tensors"]["tunable"]
    return [tunable, *(repr(line["loss"]) for line in jsonl.records(folder / "run" / "metrics.jsonl"))]


@pytest.mark.parametrize("limit", FEDAVG)
def test_at_its_limit_it_is_fedavg_bit_for_bit(limit: str, fedavg: list[str], tmp_path: Path) -> None:
    assert losses_and_digest(tmp_path, FEDAVG[limit]) == fedavg


class Killed(BaseException):
    """Stands for the end of the server's process."""


def dies_in_round(number: int, name: str, function: Callable[..., Any], when: Callable[..., int]) -> Callable[..., Any]:
    """A function that ends the server in place of its call in a round."""

    def dying(*arguments: Any, **options: Any) -> Any:
        if when(*arguments) == number:
            raise Killed(name)
        return function(*arguments, **options)

    return dying


def of_folder(params: object, path: Path) -> int:
    """The round whose server state is written."""
    return int(path.parent.name.strip(".").split("-")[1][:4]) if path.name == "server.safetensors" else -1


def test_interrupted_and_resumed(
    method: str, experiment: Experiment, local: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends after the answers of round 2, or while it writes round 2's checkpoint.

    What is being written is thrown away whatever the method, so only some are interrupted there.
    """
    assert experiment.worker is not None
    points: dict[str, tuple[object, str, Callable[..., int]]] = {
        "answered": (driver.Driver, "_check_finite", lambda loop, state, residual: state.round),
        "writing": (checkpoints.tensors, "save", of_folder),
    }
    for point in points if method in SHOWN else ["answered"]:
        owner, name, when = points[point]
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dies_in_round(2, name, getattr(owner, name), when))
            with pytest.raises(Killed):
                play(experiment, LocalRuntime(experiment.worker), tmp_path / point)
        assert RunFolder(tmp_path / point).latest.read_text() == "round-0001\n"
        assert play(experiment, LocalRuntime(experiment.worker), tmp_path / point) == local


class Tampering(LocalRuntime):
    """Changes the first reply of a client, in round 1."""

    def __init__(self, worker: Worker, client: str, change: Callable[[Reply], Reply]) -> None:
        super().__init__(worker)
        self._client, self._change = client, change

    def next(self, timeout: float | None = None) -> Reply | None:
        reply = super().next(timeout)
        if reply is None or reply.client != self._client:
            return reply
        change, self._change = self._change, lambda unchanged: unchanged
        return change(reply)


def garbled(reply: Reply) -> Reply:
    return replace(reply, content=b"garbage")


def with_another_state(reply: Reply) -> Reply:
    return replace(reply, state=reply.state + b" " if reply.state else None)


@pytest.mark.parametrize("change", [garbled, with_another_state], ids=lambda change: change.__name__)
def test_a_refused_update_advances_no_state(change: Callable[[Reply], Reply], tmp_path: Path) -> None:
    """All clients take part in two rounds; the run is that in which the client failed in the first."""
    method = {**METHODS["scaffold"], "federation": {"clients": 3, "rounds": 2}}
    experiment = experiment_of(tmp_path, method)
    assert experiment.worker is not None
    found = []
    for name, how in (("refused", change), ("failed", lambda reply: Reply(reply.client, Failure(reply.client, "ill")))):
        runtime = Tampering(experiment.worker, "1", how)
        outcome = play(experiment, runtime, tmp_path / name)
        (event,) = outcome["events"]
        assert (event["kind"], event["client"], event["round"]) == (name, "1", 1)
        assert (
            sorted(path.name for path in (tmp_path / name / "client_state").rglob("*2.safetensors"))
            == ["000000002.safetensors"] * 3
        )
        assert len(list((tmp_path / name / "client_state").rglob("*1.safetensors"))) == 2
        found.append({part: outcome[part] for part in ("tensors", "clients")})
    assert found[0] == found[1]


class Shared:
    """A line that several runs use in turn."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)

    def close(self) -> None:
        self._line.drop()


def play_over(kind: str, folder: Path, names: Sequence[str]) -> None:
    """Plays methods over the nodes of one federation, each also in one process; prints the methods that differ."""
    line: Line
    if kind == "flower":
        from fedfm.runtimes.flower.loopback import LoopbackLine

        line = LoopbackLine(Flower(kind="flower", nodes=2, threads=1))
    else:
        from fedfm.runtimes.ray import ActorLine

        line = ActorLine(Ray(kind="ray", nodes=2, threads=1), Node)
    different = {}
    with closing(line):
        for name in names:
            (place := folder / name).mkdir()
            experiment = build(place, name)
            assert experiment.worker is not None
            here = play(experiment, LocalRuntime(experiment.worker), place / "local")
            with closing(over_nodes(experiment, cast(Line, Shared(line)))) as runtime:
                there = play(experiment, runtime, place / kind)
            if here != there:
                different[name] = [part for part in here if here[part] != there[part]]
    print(json.dumps(different))


@pytest.fixture
def ray_is_polite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_is_polite")
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        pytest.param("flower", SHOWN, id="some-flower"),
        pytest.param("flower", [*METHODS], marks=ALL, id="all-flower"),
        pytest.param("ray", [*METHODS], marks=ALL, id="all-ray"),
    ],
)
def test_over_processes_of_their_own(kind: str, names: Sequence[str], tmp_path: Path) -> None:
    if find_spec({"flower": "flwr", "ray": "ray"}[kind]) is None:
        pytest.skip(f"the extra `{kind}` is not installed")
    done = finish(play_over, kind, tmp_path, names)
    assert (done.code, done.errors if done.code else "") == (0, "")
    assert json.loads(done.output.splitlines()[-1]) == {}
