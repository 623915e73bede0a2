"""Many rounds with random faults: no round is lost, and memory does not grow."""

from __future__ import annotations

import ctypes
import gc
import json
import random
import statistics
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

import fedfm
from fedfm.hosts.node import Node
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.runtimes.envelopes import Envelope, Refusal
from fedfm.runtimes.flower.apps import make_client_app, relay
from fedfm.runtimes.flower.in_process import InProcessGrid
from fedfm.runtimes.relay import RelayLine
from fedfm.server.experiment.runtime_factory import RUNTIMES, over_nodes
from tests.faults.spoilt import SPOILT, spoilt
from tests.machines import SITES, Machines, adapter, end_with, kill, site_folder, wait
from tests.machines import fedfm as command
from tests.small import small_recipe

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

NODES, SETTLED = 5, 20
"""Nodes; rounds after which what a round takes is given back."""

KEPT = 20_000
"""Bytes that may stay allocated of each round. Its records take 11 kB; its five updates, if they stayed, 42 kB."""


class Unlucky:
    """A site that does something wrong in a share of all cases."""

    def __init__(self, seed: int, share: float) -> None:
        self.site, self.chance, self.share = Node(), random.Random(seed), share
        self.done: dict[str, int] = {}

    def handle(self, envelope: Envelope) -> Iterable[Envelope]:
        if self.chance.random() >= self.share:
            return self.site.handle(envelope)
        what = self.chance.choice(["raises", "is gone", "refuses", "forgets", *SPOILT])
        self.done[what] = self.done.get(what, 0) + 1
        match what:
            case "raises":
                raise RuntimeError("out of memory")
            case "is gone":
                raise ConnectionError("hung up")
            case "refuses":
                return [Envelope(Refusal(reason="not today"))]
            case "forgets":
                self.site.rest()
                return self.site.handle(envelope)
        return spoilt(self.site.handle(envelope), SPOILT[what])


class Allocations(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h."""

    _fields_ = [
        *((f"not read {number}", ctypes.c_size_t) for number in range(4)),
        ("hblkhd", ctypes.c_size_t),
        *((f"not read {number}", ctypes.c_size_t) for number in range(4, 6)),
        ("uordblks", ctypes.c_size_t),
        *((f"not read {number}", ctypes.c_size_t) for number in range(6, 8)),
    ]


def allocated() -> int:
    """Bytes that are allocated and not freed: those of malloc, and those of Python's objects.

    Resident memory would say less: what is freed stays resident in glibc's arenas, in pieces, as chance has it.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Allocations
    found = libc.mallinfo2()
    return int(found.uordblks + found.hblkhd) + 64 * sys.getallocatedblocks()


class Memory(fedfm.Listener):
    """Notes what is allocated after every round."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def on_round(self, record: dict[str, Any]) -> None:
        self.bytes.append(allocated())

    def growth(self) -> float:
        """Bytes by which it has grown with each round since it settled."""
        after = self.bytes[SETTLED:]
        half = len(after) // 2
        return (statistics.median(after[half:]) - statistics.median(after[:half])) / half


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33, which says what is allocated"
)
@pytest.mark.parametrize(
    ("rounds", "share"), [(60, 0.5), pytest.param(500, 0.2, marks=pytest.mark.soak)], ids=["short", "long"]
)
def test_rounds_over_a_grid(rounds: int, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One never fails: with five that may, some round of 500 would have no sound update at all.
    sites = {number: Unlucky(number, share if number > 1 else 0.0) for number in range(1, NODES + 1)}
    grid = InProcessGrid(make_client_app(lambda context: sites[context.node_id].handle), [{}] * NODES)

    def line() -> RelayLine:
        line = RelayLine(tmp_path / "socket" / "relay", nodes=NODES, patience=10, deadline=60)
        threading.Thread(target=relay, args=(grid, line.path), kwargs={"poll": 0.01}, daemon=True).start()
        return line

    federation = {"clients": 6, "per_round": NODES, "rounds": rounds, "quorum": 0.2}
    monkeypatch.setitem(RUNTIMES, "flower", lambda experiment, _: over_nodes(experiment, line()))
    changes: dict[str, Any] = {"runtime": {"kind": "flower", "stack": 1}, "evaluate": {"every": 100}}
    memory = Memory()
    run = fedfm.run(load_recipe(small_recipe(tmp_path, federation=federation, **changes)), listeners=[memory])
    trained = [record for record in jsonl.records(run.path / "metrics.jsonl") if record["split"] == "train"]
    assert [record["round"] for record in trained] == list(range(1, rounds + 1))
    assert {what for site in sites.values() for what in site.done} >= {"raises", "is gone", "refuses", *SPOILT}
    assert run.summary["clients"]["refused"] > rounds / 10
    assert memory.growth() < KEPT


@pytest.mark.soak
def test_60_rounds_with_real_nodes(tmp_path: Path) -> None:
    """Whatever is killed in passing, every round is played, and the adapter is that of a simulation."""
    site_folder(tmp_path, rounds=60)
    simulated = command(tmp_path, "run", "recipe.yaml", "name=simulated", "data.client=site")
    chance = random.Random(0)
    with Machines(tmp_path) as machines:
        server = machines.server("server", "recipe.yaml", "name=real")
        sites = dict(zip(SITES, machines.sites(), strict=True))
        for number in range(1, 60):
            server.says(f"round {number:>2}/60")
            if number % 10:
                continue
            name = chance.choice(SITES)
            match chance.choice(["worker", "node", "relay", "superlink", "site"]):
                case "worker":
                    kill(sites[name], "fedfm.sites.resident")
                case "node":
                    kill(sites[name], "flower-supernode")
                case "relay":
                    kill(server, "programs flwr-serverapp")
                case "superlink":
                    kill(server, "flower-superlink")
                case _:
                    end_with(sites[name])
                    sites[name] = machines.client(f"{name}-{number}", f"keys/{name}", f"{name}.yaml", f"site-{name}")
        wait(lambda: server.process.poll() is not None, server.words)
        assert server.process.returncode == 0, server.words
    lines = (tmp_path / "runs" / "real" / "metrics.jsonl").read_text().splitlines()
    trained = [record for record in map(json.loads, lines) if record["split"] == "train"]
    assert [record["round"] for record in trained] == list(range(1, 61))
    assert adapter(tmp_path / "runs" / "real") == adapter(tmp_path / simulated["folder"])
