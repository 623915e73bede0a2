"""Whole runs of one recipe: in this process, over Flower with TLS and keys, and over Ray, bit for bit the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedfm.params import digest, load
from tests.alike import RECIPES
from tests.events import irregular
from tests.small import small_recipe
from tests.started import Finished, command, finish

pytestmark = pytest.mark.slow


def fedfm(*arguments: str) -> Finished:
    """A command in a process of its own, which may unpickle what its engine sends; the recipe says how many threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS")
        patch.setenv("RAY_worker_niceness", "0")
        return finish(command, *arguments)


def run(recipe: Path, *overrides: str) -> Path:
    """The folder of a finished run."""
    done = fedfm("run", str(recipe), *overrides, "--json")
    assert done.code == 0, done.errors
    return Path(json.loads(done.output)["folder"])


def compared(name: str, folder: Path, *overrides: str) -> Path:
    """The folder of a run elsewhere, whose adapter and ledger are those of a run in one process."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(small_recipe(folder, **RECIPES[name])))
    here, there = run(file, "runtime.stack=2", "name=local"), run(file, *overrides, "name=elsewhere")
    assert adapter(there) == adapter(here)
    assert ledger(there) == ledger(here)
    return there


def adapter(folder: Path) -> str:
    return digest(load(folder / "adapter" / "adapter_model.safetensors"))


def ledger(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "wire.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("kind", "name"), [("flower", "fedpft"), ("ray", "fedadam")])
def test_the_outcome_is_that_of_a_local_run(kind: str, name: str, tmp_path: Path) -> None:
    if find_spec({"flower": "flwr", "ray": "ray"}[kind]) is None:
        pytest.skip(f"the extra `{kind}` is not installed")
    there = compared(name, tmp_path, f"runtime={{kind: {kind}, stack: 2, nodes: 2}}")
    assert irregular(json.loads(line) for line in (there / "events.jsonl").read_text().splitlines()) == []


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two machines, each with a core: two actors need both."""
    if find_spec("ray") is None:
        pytest.skip("the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})  # type: ignore[no-untyped-call]
    try:
        nodes.add_node(num_cpus=1)  # type: ignore[no-untyped-call]
        yield nodes.address
    finally:
        nodes.shutdown()  # type: ignore[no-untyped-call]


def test_a_ray_cluster_of_two_machines(cluster: str, tmp_path: Path) -> None:
    compared("lora", tmp_path, f"runtime={{kind: ray, stack: 2, nodes: 2, address: '{cluster}'}}")


def test_more_actors_than_a_cluster_has_room_for_are_refused(cluster: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(small_recipe(tmp_path)))
    done = fedfm("run", str(file), f"runtime={{kind: ray, nodes: 9, address: '{cluster}'}}")
    assert (done.code, "runtime.nodes" in done.errors, "room for 2 actors" in done.errors) == (2, True, True)
