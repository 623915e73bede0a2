"""A run with sites that hold their own data equals the simulation; unknown sites are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.machines import SITES, Machines, adapter, fedfm, site_folder

pytest.importorskip("flwr", reason="needs the extra `flower`")

pytestmark = pytest.mark.slow


def test_it_is_the_run_that_a_simulation_was(tmp_path: Path) -> None:
    site_folder(tmp_path, rounds=2)
    simulated = fedfm(tmp_path, "run", "recipe.yaml", "name=simulated", "data.client=site")
    with Machines(tmp_path) as machines:
        server = machines.server("server", "recipe.yaml", "name=real")
        clients = machines.sites()
        stranger = machines.client("stranger", "stranger", "a.yaml", "site-stranger")
        server.says("accuracy on the test set")
        assert server.process.wait(60) == 0, server.words
        assert "the server does not take this site's key" in stranger.words
        for name, process in zip(SITES, clients, strict=True):
            assert f"as client {name}: 12 examples of" in process.words
    assert adapter(tmp_path / "runs" / "real") == adapter(tmp_path / simulated["folder"])
    for name in SITES:
        left = [json.loads(line) for line in (tmp_path / f"site-{name}" / "wire.jsonl").read_text().splitlines()]
        assert [line["round"] for line in left] == [1, 2]
    assert not (tmp_path / "site-stranger" / "wire.jsonl").exists()
