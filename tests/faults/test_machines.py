"""Whatever is killed between a server and its sites, the run ends with the adapter that it must have."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.machines import SITES, Machines, adapter, end_with, fedfm, kill, site_folder

pytest.importorskip("flwr", reason="needs the extra `flower`")

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


def test_every_process_may_be_killed(tmp_path: Path) -> None:
    site_folder(tmp_path, rounds=12)
    simulated = fedfm(tmp_path, "run", "recipe.yaml", "name=simulated", "data.client=site")
    with Machines(tmp_path) as machines:
        server = machines.server("server", "recipe.yaml", "name=real")
        a, _ = (machines.client(name, f"keys/{name}", f"{name}.yaml", f"site-{name}") for name in SITES)
        server.says("round  1/12")
        kill(a, "fedfm.sites.resident")
        server.says("round  3/12")
        kill(server, "flwr-serverapp")
        server.says("round  5/12")
        kill(server, "flower-superlink")
        server.says("round  7/12")
        end_with(a)
        machines.client("a again", "keys/a", "a.yaml", "site-a")
        server.says("round  9/12")
        end_with(server)
        again = machines.server("again", "runs/real")
        again.says("accuracy on the test set")
        assert again.process.wait(60) == 0, again.words
    found = fedfm(tmp_path, "status", "runs/real")
    assert (found["state"], found["round"]) == ("completed", 12)
    assert {client: (of["round"], of["refused"]) for client, of in found["clients"].items()} == {
        "a": (12, 0),
        "b": (12, 0),
    }
    assert adapter(tmp_path / "runs" / "real") == adapter(tmp_path / simulated["folder"])
