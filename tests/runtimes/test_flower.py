"""The same recipe gives the same result locally and over Flower's grid with its real apps."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from flwr.serverapp import Grid

import fedfm
from fedfm.params import digest, load
from fedfm.runtimes.flower.apps import make_client_app, relay
from fedfm.runtimes.flower.in_process import InProcessGrid
from fedfm.runtimes.nodes import Line
from fedfm.runtimes.relay import RelayLine
from fedfm.sites.site import Site
from tests.alike import RECIPES
from tests.small import small_recipe


def carried(grid: Grid, path: Path) -> Line:
    """A line by way of a relay in a thread."""
    line = RelayLine(path, nodes=2, patience=10, deadline=60)
    threading.Thread(target=relay, args=(grid, path), kwargs={"poll": 0.0}, daemon=True).start()
    return line


@pytest.fixture
def grid() -> InProcessGrid:
    sites = {1: Site(), 2: Site()}
    return InProcessGrid(make_client_app(lambda context: sites[context.node_id].handle), [{}, {}])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket" / "relay"


@pytest.mark.parametrize("name", RECIPES)
def test_the_adapter_is_that_of_a_local_run(
    name: str, grid: InProcessGrid, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfm.server.carriers._line", lambda settings: carried(grid, path))
    recipe = small_recipe(tmp_path, **RECIPES[name])
    local = fedfm.run(fedfm.load_recipe(recipe | {"name": "local"}), ["runtime.stack=2"])
    flower = fedfm.run(fedfm.load_recipe(recipe | {"name": "flower"}), ["runtime={kind: flower, stack: 2}"])
    assert _adapter(flower) == _adapter(local)
    assert flower.summary["clients"] == {"failed": 0, "refused": 0} | flower.summary["clients"]
    assert flower.summary["bytes"] == local.summary["bytes"]


def _adapter(run: fedfm.Run) -> str:
    return digest(load(run.path / "adapter" / "adapter_model.safetensors"))


def test_the_apps_that_flower_starts_for_every_message_load_no_torch() -> None:
    code = "import sys, fedfm.runtimes.flower.apps; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
