"""What a worker that stays on a site saves: rounds of MiniLM over Flower, with it and with a new process a message.

    python benchmarks/resident.py [--repeats 2]

Four clients on two nodes of a Flower federation on loopback (TLS, keys), LoRA r 8, 64 examples of 32 tokens each; runs
with and without the worker take turns. A new process does for every message what Flower's client apps do by themselves:
imports, data, model. Prints medians of rounds after the first, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from fedfm import Experiment, Listener, Simulation, run
from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Envelope, Prepare
from fedfm.runtimes.flower.loopback import LoopbackLine
from fedfm.runtimes.settings import Flower
from ledger import machine, measured

ROUNDS, CLIENTS, NODES, EXAMPLES = 5, 4, 2, 64


FRESH = (str(Path(__file__)), "--serve")
"""Python's arguments for workers that start a new process for every envelope."""


def over_loopback(worker: Sequence[str] | None, experiment: Experiment) -> LoopbackLine:
    """A line to nodes on loopback, whose workers are started with these arguments of Python."""
    return LoopbackLine(Flower(nodes=NODES), worker)


class Seconds(Listener):
    """Notes how long rounds take."""

    def __init__(self) -> None:
        self.rounds: list[float] = []

    def on_round(self, record: dict[str, Any]) -> None:
        """Adds a round."""
        self.rounds.append(record["seconds"])


def rounds(worker: Sequence[str] | None) -> list[float]:
    """Seconds of each round of a run."""
    with tempfile.TemporaryDirectory() as name:
        rows = [{"text": f"example {i} of a text that says little", "label": i % 2} for i in range(CLIENTS * EXAMPLES)]
        data = Path(name) / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = {
            "name": "resident",
            "output": name,
            "model": {"path": "builtin:minilm"},
            "task": {"kind": "text-classification"},
            "data": {"train": str(data), "test": str(data), "max_length": 32},
            "federation": {"clients": CLIENTS, "per_round": CLIENTS, "rounds": ROUNDS},
            "local": {"batch_size": 8},
            "runtime": {"kind": "flower", "nodes": NODES},
            "evaluate": {"every": ROUNDS},
        }
        seconds = Seconds()
        run(recipe, deployment=Simulation(line=partial(over_loopback, worker)), listeners=[seconds])
        return seconds.rounds


def serve(path: Path) -> None:
    """A worker that starts a new process for every envelope, which is told of the run first."""
    prepared = path.with_suffix(".prepared")
    with closing(sockets.listen(path)) as server:
        while True:
            caller, _ = server.accept()
            with caller:
                asked = sockets.receive(caller)
                if asked is None:
                    continue
                if isinstance(asked[1].head, Prepare):
                    prepared.write_text(asked[1].text)
                own = path.with_suffix(".once")
                process = subprocess.Popen([sys.executable, "-m", "fedfm.hosts.resident", str(own)])
                if not isinstance(asked[1].head, Prepare):
                    list(sockets.ask(own, Envelope.of(prepared.read_text(), ()), patience=60))
                for part in sockets.ask(own, asked[1], patience=60):
                    sockets.send(caller, part)
                process.terminate()
                process.wait()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    found: dict[str, list[float]] = {"stays": [], "a new process": []}
    for number in range(options.repeats):
        for name, worker in {"stays": None, "a new process": FRESH}.items():
            found[name] += measured("resident", f"{name} {number}", lambda worker=worker: rounds(worker))[1:]
    print(f"seconds a round, MiniLM, {CLIENTS} clients on {NODES} nodes over TLS on loopback; {machine()}")
    for name, seconds in found.items():
        print(f"  {name:15} median {statistics.median(seconds):5.1f}  ({min(seconds):.1f} to {max(seconds):.1f})")
    ratio = statistics.median(found["a new process"]) / statistics.median(found["stays"])
    print(f"  a new process takes {ratio:.1f} times as long")


if __name__ == "__main__":
    main()
