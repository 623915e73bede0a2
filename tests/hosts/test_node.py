"""A node accepts a run that fits its data and model, and gives the reason when it refuses one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedfm.hosts import node as node_module
from fedfm.hosts.node import Node
from fedfm.recipe import load_recipe
from fedfm.runtimes.envelopes import Envelope, File, Prepare, Ready, Refusal, Replies, Requests, Unprepared, job_digest
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.experiment.runtime_factory import over_nodes
from fedfm.updates import decode_update
from tests.asked import instruction, trained
from tests.small import small_recipe


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    recipe = small_recipe(tmp_path_factory.mktemp("data"), runtime={"kind": "flower", "stack": 2})
    return build_experiment(load_recipe(recipe))


@pytest.fixture
def job(experiment: Experiment) -> dict[str, Any]:
    return dict(over_nodes(experiment, None).job)  # type: ignore[arg-type]


def asked(node: Node, envelope: Envelope) -> list[Envelope]:
    return list(node.handle(envelope))


def test_it_trains_as_the_servers_worker_would(experiment: Experiment, job: dict[str, Any]) -> None:
    node = Node()
    assert asked(node, Envelope(Prepare(job=job))) == [Envelope(Ready(job=job_digest(job), clients=None))]
    message = instruction(experiment.start)
    clients = list(experiment.worker.clients)[:3]
    parts = asked(
        node, Envelope(Requests(job=job_digest(job), clients=tuple((name, 0) for name in clients)), (message,))
    )
    there = {part.head.clients[0][0]: part.blobs[0] for part in parts if isinstance(part.head, Replies)}
    assert there == trained(experiment.worker, dict.fromkeys(clients, message))
    assert decode_update(there[clients[0]]).facts.client == clients[0]


def test_work_of_a_run_that_it_does_not_know_is_not_done() -> None:
    assert asked(Node(), Envelope(Requests(job="another", clients=()))) == [Envelope(Unprepared())]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "0.0.0"}, "install the same version"),
        ({"data": "0" * 64}, "is another file here than at the server"),
        (
            {"model": {"weights": "0" * 64, "processor": "1" * 64}},
            "has other weights and other tokenizer or image processor here than at the server",
        ),
        ({"model": None}, "does not say which model"),
    ],
)
def test_another_run_than_it_can_do_is_refused(job: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    if changes.get("model"):
        changes = {"model": job["model"] | changes["model"]}
    (answer,) = asked(Node(), Envelope(Prepare(job=job | changes)))
    assert isinstance(answer.head, Refusal)
    assert reason in answer.head.reason


def test_a_file_that_is_not_there_is_named(job: dict[str, Any], tmp_path: Path) -> None:
    job["recipe"] = job["recipe"] | {"data": job["recipe"]["data"] | {"train": str(tmp_path / "gone.jsonl")}}
    (answer,) = asked(Node(), Envelope(Prepare(job=job)))
    assert isinstance(answer.head, Refusal)
    assert "gone.jsonl" in answer.head.reason


def test_files_of_a_proxy_that_the_recipe_does_not_have_are_refused(job: dict[str, Any], tmp_path: Path) -> None:
    file = File(name="config.json", size=2, sha256="0" * 64)
    (answer,) = asked(Node(downloads=tmp_path / "proxies"), Envelope(Prepare(job=job, files=(file,))))
    assert isinstance(answer.head, Refusal)
    assert "but the server offers the files of one" in answer.head.reason
    assert not (tmp_path / "proxies").exists()


def test_what_only_a_node_says_is_not_answered() -> None:
    (answer,) = asked(Node(), Envelope(Unprepared()))
    assert answer == Envelope(Refusal(reason="a node does not answer `unprepared`"))


def test_what_it_did_not_foresee_is_told(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(node_module, "read_training", fails)
    (answer,) = asked(Node(), Envelope(Prepare(job=job)))
    assert answer == Envelope(Refusal(reason="the node met an unexpected ZeroDivisionError; its log has the traceback"))
