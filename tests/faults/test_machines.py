"""Each process of a server and its sites is killed; the run ends with the correct adapter."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.machines import Machines, Process, adapter, end_with, fedfm, kill, site_folder, started

pytest.importorskip("flwr", reason="needs the extra `flower`")

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


@pytest.mark.soak
def test_t02_every_process_may_be_killed(tmp_path: Path) -> None:
    site_folder(tmp_path, rounds=12)
    simulated = fedfm(tmp_path, "run", "recipe.yaml", "name=simulated", "data.client=site")
    with Machines(tmp_path) as machines:
        server = machines.server("server", "recipe.yaml", "name=real")
        a, _ = machines.sites()
        server.says("round  1/12")
        kill(a, "fedfm.sites.resident")
        server.says("round  2/12")
        kill(server, "flower-superexec")
        server.says("round  3/12")
        kill(server, "programs flwr-serverapp")
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


SHIFTED = """
import datetime, os
from flwr.supercore import date

true = date.now
date.now = lambda: true() + datetime.timedelta(seconds=float(os.environ["SECONDS_AHEAD"]))
"""
"""What Python loads as it starts, where it finds it: to Flower the time is another."""


@pytest.mark.soak
def test_a_site_whose_clock_is_wrong(tmp_path: Path) -> None:
    """Behind it may be, by minutes; of one that is ahead Flower takes nothing, and it is told why."""
    site_folder(tmp_path, rounds=2)
    simulated = fedfm(tmp_path, "run", "recipe.yaml", "name=simulated", "data.client=site")
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(SHIFTED)
    behind, before = (("env", f"PYTHONPATH={tmp_path / 'clock'}", f"SECONDS_AHEAD={by}") for by in (-60, 60))
    with Machines(tmp_path) as machines:
        server = machines.server("server", "recipe.yaml", "name=real")
        machines.client("a", "keys/a", "a.yaml", "site-a", before=behind)
        ahead = machines.client("ahead", "keys/b", "b.yaml", "site-b", before=before)
        ahead.says("clock is more than 5 seconds ahead")
        ahead.end()
        machines.client("b", "keys/b", "b.yaml", "site-b")
        server.says("accuracy on the test set")
        assert server.process.wait(60) == 0, server.words
    assert adapter(tmp_path / "runs" / "real") == adapter(tmp_path / simulated["folder"])


@pytest.mark.soak
def test_t03_a_site_that_hangs_is_not_waited_for_longer_than_the_deadline(tmp_path: Path) -> None:
    site_folder(tmp_path, rounds=8, quorum=0.5)
    with Machines(tmp_path) as machines:
        server = machines.server("server", "recipe.yaml", "name=real", "runtime.kind=flower", "runtime.deadline=20")
        a, _ = machines.sites()
        server.says("round 2/8")
        (worker,) = started(a, "fedfm.sites.resident")
        worker.suspend()
        server.says("clients 1/2 1 failed")
        worker.resume()
        server.says("accuracy on the test set")
        assert server.process.wait(60) == 0, server.words
    found = fedfm(tmp_path, "status", "runs/real")
    assert found["clients"]["a"]["failed"] >= 1
    assert found["clients"]["a"]["round"] == 8, "it takes part again"
    assert found["clients"]["b"] == {"round": 8, "failed": 0, "refused": 0} | found["clients"]["b"]
    events = (tmp_path / "runs" / "real" / "events.jsonl").read_text()
    assert "no answer within 20 seconds" in events
    assert '"refused"' not in events, "what comes late is not taken"


def test_t16_t24_an_interrupted_run_goes_on_and_no_place_is_taken_twice(tmp_path: Path) -> None:
    """Neither the run's folder, nor the server's, nor that of a site whose key another shows."""
    site_folder(tmp_path, rounds=6)
    simulated = fedfm(tmp_path, "run", "recipe.yaml", "name=simulated", "data.client=site")
    with Machines(tmp_path) as machines:
        server = machines.server("server", "recipe.yaml", "name=real")
        a, b = machines.sites()
        server.says("round 1/6")
        server.process.send_signal(signal.SIGINT)
        server.ends(130)
        server.says(f"resume it with: fedfm server {tmp_path / 'runs' / 'real'} --tls")
        assert fedfm(tmp_path, "status", "runs/real")["state"] == "interrupted"
        b.end()

        again = machines.server("again", "runs/real")
        again.says("a connected")
        same = machines.server("same", "runs/real")
        other = machines.server("other", "recipe.yaml", "name=other")
        double = machines.client("double", "keys/a", "a.yaml", "site-double")
        same.ends(2)
        same.says(f"in use by process {again.process.pid}")
        other.ends(2)
        other.says("fedfm-server is in use by another process")
        double.says("the server does not take this site's key")
        assert not (tmp_path / "runs" / "other").exists()
        machines.client("b again", "keys/b", "b.yaml", "site-b")
        again.says("accuracy on the test set")
        again.ends(0)
        assert a.process.poll() is None
    assert adapter(tmp_path / "runs" / "real") == adapter(tmp_path / simulated["folder"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 400 kB."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_t06_a_run_goes_on_when_the_disk_has_room_again(tmp_path: Path, small_disk: Path) -> None:
    site_folder(tmp_path, rounds=40)
    whole = fedfm(tmp_path, "run", "recipe.yaml", "name=whole", "data.client=site")
    full = Process(tmp_path, "full", "run", "recipe.yaml", "name=full", "data.client=site", f"output={small_disk}")
    assert full.process.wait(300) == 5, full.words
    full.says("No space left on device")
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    again = fedfm(tmp_path, "resume", small_disk / "full")
    assert adapter(Path(again["folder"])) == adapter(tmp_path / whole["folder"])


def test_what_a_site_cannot_write_down_does_not_leave(tmp_path: Path, small_disk: Path) -> None:
    site_folder(tmp_path, rounds=3, quorum=0.5)
    with Machines(tmp_path) as machines:
        server = machines.server("server", "recipe.yaml", "name=real")
        a = machines.client("a", "keys/a", "a.yaml", str(small_disk / "site"))
        server.says("a connected")  # the run waits for b, so that the disk is full before round 1
        with suppress(OSError), (small_disk / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(1024))
                filler.flush()
        machines.client("b", "keys/b", "b.yaml", "site-b")
        server.says("accuracy on the test set")
        assert server.process.wait(60) == 0, server.words
        a.says("No space left on device")
    found = fedfm(tmp_path, "status", "runs/real")
    assert (found["clients"]["a"]["round"], found["clients"]["b"]["round"]) == (0, 3)
    ledger = small_disk / "site" / "wire.jsonl"
    assert not ledger.exists() or not ledger.read_bytes()
