"""A server is killed at every point of a round while its sites stay: the result equals that of an uninterrupted run."""

from __future__ import annotations

import json
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.events import irregular
from tests.faults.killed import POINTS, killed
from tests.machines import SITES, Machines, adapter, fedfm, site_folder, wait

pytest.importorskip("flwr", reason="needs the extra `flower`")

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

SAVED = ("written", "finishing")
"""Points at which the round is saved; after any other it is played again."""

LEFT_AGAIN = ("answered", "aggregated", "writing")
"""Points at which each site's update has come, and comes again."""


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def measured(run: Path) -> list[dict[str, Any]]:
    """What is known of the model after each round, but for the time; a simulation measures each client, too."""
    lines = (line for line in records(run / "metrics.jsonl") if line["split"] != "client")
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_t05_a_server_is_killed_at_every_point_of_a_round(tmp_path: Path) -> None:
    """One point in each round; the sites stay, and find it again."""
    points = list(enumerate(POINTS))
    last = len(points) - 1
    site_folder(tmp_path, rounds=last)
    simulated = tmp_path / fedfm(tmp_path, "run", "recipe.yaml", "name=simulated", "data.client=site")["folder"]
    real = tmp_path / "runs" / "real"
    with Machines(tmp_path) as machines:
        sites = machines.sites()
        for number, point in points:
            target = ("runs/real",) if number else ("recipe.yaml", "name=real")
            server = machines.server(point, *target, target=partial(killed, point, number))
            server.ends(-signal.SIGKILL)
            wait(lambda: not answers(machines.port), "the end of what it had started")
        server = machines.server("again", "runs/real")
        server.says("accuracy on the test set")
        server.ends(0)
        assert [site.process.poll() for site in sites] == [None] * len(SITES)

    assert adapter(real) == adapter(simulated)
    assert measured(real) == measured(simulated)
    ledger = records(real / "wire.jsonl")
    assert ledger == records(simulated / "wire.jsonl")
    kept = [number if point in SAVED else max(0, number - 1) for number, point in points]
    assert [(event["kind"], event["round"]) for event in irregular(records(real / "events.jsonl"))] == [
        ("resume", number) for number in kept
    ]
    assert not list(real.rglob("*.partial"))
    for name in SITES:
        left = records(tmp_path / f"site-{name}" / "wire.jsonl")
        for number, point in points[1:]:
            (line,) = [line for line in ledger if line["round"] == number and line["clients"] == [name]]
            times = [found for found in left if found["round"] == number]
            assert all(found == found | line for found in times), "what leaves again is the same"
            assert point == "asked" or len(times) == (2 if point in LEFT_AGAIN else 1), point
