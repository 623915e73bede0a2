"""Memory and start-up with 20 and with 1,000 clients of 10 examples: peak resident memory must not grow.

    python benchmarks/many_clients.py

Each measurement is a process of its own: MiniLM, LoRA r 8, 10 clients a round, 2 rounds, on generated text, after one
run that fills the cache. Start-up is the time from starting the process to the first round.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ledger import measured, measured_on

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
    "total_s": finished.summary["seconds"]["total"],
}))
"""


def write_job(folder: Path, clients: int) -> Path:
    """Ten examples a client, made of words; the test set is the same for every number of clients."""
    generator = random.Random(0)
    words = ["good", "bad", "film", "plot", "the", "a", "very", "not", "actor", "scene", "long", "short"]

    def rows(count: int) -> str:
        lines = []
        for _ in range(count):
            text = " ".join(generator.choices(words, k=12))
            lines.append(json.dumps({"text": text, "label": int("good" in text)}))
        return "\n".join(lines) + "\n"

    (folder / "test.jsonl").write_text(rows(200))
    (folder / f"train-{clients}.jsonl").write_text(rows(10 * clients))
    recipe = {
        "name": f"clients-{clients}",
        "model": {"path": "builtin:minilm"},
        "task": {"kind": "text-classification"},
        "data": {"train": str(folder / f"train-{clients}.jsonl"), "test": str(folder / "test.jsonl"), "max_length": 32},
        "federation": {"clients": clients, "per_round": 10, "rounds": 2},
        "local": {"batch_size": 10},
    }
    path = folder / f"clients-{clients}.yaml"
    path.write_text(json.dumps(recipe))
    return path


def measure(clients: int) -> dict[str, Any]:
    """Peak memory and start-up of the second of two equal runs, so that the cache is warm."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_job(folder, clients)
        for attempt in ("cold", "warm"):
            command = [sys.executable, "-c", CHILD, str(recipe), str(folder / f"run-{attempt}"), str(time.time())]
            done = subprocess.run(command, capture_output=True, check=True, text=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def main() -> None:
    """Measures what is not yet kept, then prints the table."""
    results = {
        clients: [
            measured("many_clients", f"{clients} clients, repeat {k}", lambda c=clients: measure(c)) for k in range(3)
        ]
        for clients in (20, 1000)
    }
    print("clients   peak memory (median of 3)   start-up to first round")
    medians = {}
    for clients, repeats in results.items():
        medians[clients] = sorted(repeat["peak_mib"] for repeat in repeats)[1]
        start_up = sorted(repeat["start_up_s"] for repeat in repeats)[1]
        print(f"{clients:>7}   {medians[clients]:>8.0f} MiB                {start_up:>8.1f} s")
    print(f"peak memory at 1,000 clients / at 20: {medians[1000] / medians[20]:.3f}")
    print(f"measured on {measured_on('many_clients')}")


if __name__ == "__main__":
    main()
