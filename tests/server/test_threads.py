"""The recipe sets the number of threads, which decides bits: of training, of the proxy and of the server's step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm import run
from fedfm.algorithms.fedavg import FedAvg
from fedfm.clients import evaluation
from fedfm.hosts.node import Node
from fedfm.proxies import pair
from fedfm.proxies.fedpft.model import FedPFTModel
from fedfm.recipe import Recipe, load_recipe
from fedfm.server import resume
from fedfm.server.experiment.deployment import Simulation
from tests.machines import adapter
from tests.server.experiment.test_deployment import Near
from tests.small import small_recipe

Seen = dict[str, set[int]]


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """As a process has them on a machine with two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """How many threads torch had in each part of a run."""
    found: Seen = {}
    monkeypatch.setattr("fedfm.hosts.devices.cpu_count", lambda: 2)
    for name, owner, attribute in (
        ("training", torch.Tensor, "backward"),
        ("server step", FedAvg, "server_step"),
        ("evaluation", evaluation, "reading"),
        ("proxy made", pair, "make_pair"),
        ("proxy aligned", FedPFTModel, "advance"),
    ):
        monkeypatch.setattr(owner, attribute, watched(getattr(owner, attribute), found.setdefault(name, set())))
    return found


def watched(function: Any, numbers: set[int]) -> Any:
    def watching(*given: Any, **named: Any) -> Any:
        numbers.add(torch.get_num_threads())
        return function(*given, **named)

    return watching


def recipe(folder: Path, *overrides: str) -> Recipe:
    federation = {"clients": 2, "per_round": 2, "rounds": 2}
    return load_recipe(small_recipe(folder, federation=federation, runtime={"stack": "off"}), overrides)


def test_what_decides_bits_has_one_thread_and_evaluation_has_all(tmp_path: Path, seen: Seen) -> None:
    finished = run(
        recipe(
            tmp_path,
            "proxy={kind: fedpft, ffn_keep: 0.5, keep_layers: [], interval: 1}",
            "public.data=builtin:pydoc",
            "public.limit=8",
        )
    )
    assert seen.pop("evaluation") == {2}
    assert all(numbers == {1} for numbers in seen.values()), seen
    assert torch.get_num_threads() == 2
    assert finished.recipe.runtime.threads == 1, "resolved, and written down"


def test_where_patience_goes_by_an_evaluation_it_has_one_too(tmp_path: Path, seen: Seen) -> None:
    run(recipe(tmp_path, "evaluate.patience=1", "data.validation=0.2"))
    assert seen["evaluation"] == {1}


def test_more_are_used_also_on_resume(tmp_path: Path, seen: Seen) -> None:
    finished = run(recipe(tmp_path, "runtime.threads=2"))
    torch.set_num_threads(1)
    resume(finished.path, ["federation.rounds=3"])
    assert seen["training"] == seen["server step"] == {2}


def test_a_node_uses_as_many(tmp_path: Path, seen: Seen) -> None:
    chosen = recipe(tmp_path, "runtime={kind: flower, nodes: 1, stack: 'off'}", "federation.rounds=1")
    run(chosen, deployment=Simulation(line=lambda _: Near({"node": Node()})))
    assert seen["training"] == {1}


def test_the_bits_are_those_of_a_process_with_one(tmp_path: Path) -> None:
    two = run(recipe(tmp_path, "name=two"))
    torch.set_num_threads(1)
    assert adapter(run(recipe(tmp_path, "name=one")).path) == adapter(two.path)
