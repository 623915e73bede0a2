"""How many clients to train in one pass: seconds a round of MiniLM, by their number, in float32 and bfloat16.

    python benchmarks/pass_size.py [--repeats 3]

32 clients of one step of 8 texts of 32 tokens, LoRA r 8, one process with one thread, as each of several processes has.
Runs take turns; printed are medians over their rounds between the first and the last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from fedfm import Listener, load_recipe, run
from ledger import measured, measured_on

CLIENTS, BATCH, LENGTH, ROUNDS = 32, 8, 32, 5
STACKS = ("off", 1, 2, 4, 8, 16, 32)


class Ends(Listener):
    """Notes when rounds are over."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_round(self, record: dict[str, Any]) -> None:
        """A round is over."""
        self.ends.append(time.perf_counter())


def seconds(stack: int | str, precision: str) -> list[float]:
    """Of each round between the first and the last."""
    with tempfile.TemporaryDirectory() as name:
        text = "word " * LENGTH
        rows = [{"text": text, "label": number % 2} for number in range(CLIENTS * BATCH)]
        data = Path(name) / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = {
            "name": "pass-size",
            "output": name,
            "model": {"path": "builtin:minilm"},
            "task": {"kind": "text-classification"},
            "data": {"train": str(data), "test": str(data), "max_length": LENGTH},
            "federation": {"clients": CLIENTS, "per_round": CLIENTS, "rounds": ROUNDS},
            "local": {"batch_size": BATCH, "max_steps": 1},
            "runtime": {"stack": stack, "precision": precision, "processes": 1},
            "evaluate": {"every": ROUNDS, "clients": 0},
            "checkpoint": {"every": ROUNDS},
        }
        heard = Ends()
        run(load_recipe(recipe), listeners=[heard])
        return [end - start for start, end in pairwise(heard.ends[:-1])]


def main() -> None:
    """Measures what is not yet kept, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = [(stack, precision) for stack in STACKS for precision in ("float32", "bfloat16")]
    ways.remove(("off", "bfloat16"))  # a plain loop has but float32
    found: dict[tuple[int | str, str], list[float]] = {way: [] for way in ways}
    for repeat in range(options.repeats):
        for way in ways:
            found[way] += measured("pass_size", f"{way[0]}, {way[1]}, repeat {repeat}", partial(seconds, *way))
    print(f"{'clients a pass':>14}{'tokens':>8}{'float32':>20}{'bfloat16':>20}  seconds a round, median (min to max)")
    for stack in STACKS:
        tokens = LENGTH * BATCH * (1 if stack == "off" else int(stack))
        cells = [_cell(found.get((stack, precision))) for precision in ("float32", "bfloat16")]
        print(f"{stack:>14}{tokens:>8}{cells[0]:>20}{cells[1]:>20}")
    print(f"one thread; measured on {measured_on('pass_size')}")


def _cell(times: list[float] | None) -> str:
    return "-" if not times else f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"


if __name__ == "__main__":
    main()
