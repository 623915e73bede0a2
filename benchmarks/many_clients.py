"""Memory and start-up as the number of clients, and of those in a round, grows: peak resident memory must not.

    python benchmarks/many_clients.py

Each measurement is a run in a process of its own, without further ones: MiniLM, LoRA r 8, 10 clients in a pass, 2
rounds, on generated text, after one run that fills the cache. Start-up is the time from starting the process to the
first round.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from ledger import measured, measured_on


@dataclass(frozen=True)
class Case:
    """A federation: how many clients, how many of them in a round, and examples of each."""

    clients: int
    cohort: int
    examples: int

    @property
    def key(self) -> str:
        """Its name in the ledger."""
        return f"{self.clients} clients of {self.examples}, {self.cohort} a round"


PAIRS = ((Case(20, 10, 10), Case(1000, 10, 10)), (Case(100, 10, 5), Case(10_000, 500, 5)))
"""A small federation and a large one, held against each other."""

CHILD = """
import json, resource, sys, time
from fedfm import Listener, load_recipe, run

class Clock(Listener):
    first = None
    def on_client(self, round, done, total, client, seconds):
        if self.first is None:
            self.first = time.time() - float(sys.argv[3]) - seconds

clock = Clock()
finished = run(load_recipe(sys.argv[1], ["run_dir=" + sys.argv[2]]), listeners=[clock])
print(json.dumps({
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "start_up_s": clock.first,
    "train_s": finished.summary["seconds"]["train"],
}))
"""


def write_job(folder: Path, case: Case) -> Path:
    """Examples made of words; the test set is the same in every case."""
    generator = random.Random(0)
    words = ["good", "bad", "film", "plot", "the", "a", "very", "not", "actor", "scene", "long", "short"]

    def rows(count: int) -> str:
        lines = []
        for _ in range(count):
            text = " ".join(generator.choices(words, k=12))
            lines.append(json.dumps({"text": text, "label": int("good" in text)}))
        return "\n".join(lines) + "\n"

    (folder / "test.jsonl").write_text(rows(200))
    (folder / "train.jsonl").write_text(rows(case.examples * case.clients))
    recipe = {
        "name": "many-clients",
        "model": {"path": "builtin:minilm"},
        "task": {"kind": "text-classification"},
        "data": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "max_length": 32},
        "federation": {"clients": case.clients, "per_round": case.cohort, "rounds": 2},
        "local": {"batch_size": 10},
        "runtime": {"stack": 10, "processes": 1, "precision": "float32"},
    }
    path = folder / "many-clients.yaml"
    path.write_text(json.dumps(recipe))
    return path


def measure(case: Case) -> dict[str, Any]:
    """Peak memory and start-up of the second of two equal runs, so that the cache is warm."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_job(folder, case)
        for attempt in ("cold", "warm"):
            command = [sys.executable, "-c", CHILD, str(recipe), str(folder / f"run-{attempt}"), str(time.time())]
            done = subprocess.run(command, capture_output=True, check=True, text=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def main() -> None:
    """Measures what is not yet kept, then prints the table."""
    found: dict[Case, dict[str, float]] = {}
    for case in (case for pair in PAIRS for case in pair):
        repeats = [measured("many_clients", f"{case.key}, repeat {k}", partial(measure, case)) for k in range(3)]
        found[case] = {name: median(repeat[name] for repeat in repeats) for name in repeats[0]}
    print("medians of 3                               peak MiB   seconds to round 1   rounds of training a second")
    for case, figures in found.items():
        rate = 2 / figures["train_s"]
        print(f"{case.key:<40}{figures['peak_mib']:>11.0f}{figures['start_up_s']:>21.1f}{rate:>30.3f}")
    for small, large in PAIRS:
        print(f"peak memory, {large.key} / {small.key}: {found[large]['peak_mib'] / found[small]['peak_mib']:.3f}")
    print(f"measured on {measured_on('many_clients')}")


if __name__ == "__main__":
    main()
