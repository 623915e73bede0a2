"""Frozen blocks in bfloat16 against float32: is what is learnt as good?

    python benchmarks/precision.py [--seeds 3] [--budget-minutes N] [--data FOLDER]

Runs without a proxy of `fedpft.py` (MiniLM, LoRA r 8, 100 clients, five sets; rate 3e-3, 15 rounds, qnli 25), whose
clients compute in bfloat16, and the same in float32: same clients, same batches, same order. The measurement of the
earlier protocol is printed as well.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

from fedpft_data import TEXT_SETS
from fedpft_earlier import by_setting
from fedpft_jobs import Job
from fedpft_methods import Scale
from fedpft_runner import argument_parser, make_runs, read_arguments
from fedpft_statistics import Difference
from fedpft_tables import MISSING, grid
from ledger import kept, mean_and_deviation, measured_on

NAME = "precision"
PRECISIONS = ("bfloat16", "float32")
LEARNING_RATE, ROUNDS, ROUNDS_OF_QNLI = 3e-3, 15, 25
ALLOWED = 0.3
"""Points that may be lost."""

EARLIER = {
    "bfloat16": "iid, full, matched, web text",
    "float32": "iid, full, matched, web text, runtime.precision=float32",
}
"""Settings of the earlier protocol."""

Results = Mapping[tuple[str, int], Mapping[str, Any]]
"""(set, seed) → the result."""


def job(data: str, seed: int, precision: str) -> Job:
    """One run."""
    rounds = ROUNDS_OF_QNLI if data == "qnli" else ROUNDS
    scale = Scale(overrides=(f"runtime.precision={precision}",))
    return Job(data, "full", seed, LEARNING_RATE, rounds, "test", scale=scale)


def table(found: Mapping[str, Results]) -> Iterator[str]:
    """Accuracy by precision and set, and the difference, paired by set and seed."""
    rows = [["accuracy in %", *TEXT_SETS]]
    for precision in PRECISIONS:
        columns = [[of["accuracy"] for (name, _), of in found[precision].items() if name == data] for data in TEXT_SETS]
        rows.append([precision, *(mean_and_deviation(own, 100, 1) if own else MISSING for own in columns)])
    yield from grid(rows)
    fast, exact = (found[precision] for precision in PRECISIONS)
    both = [place for place in fast if place in exact]
    if both:
        gap = Difference({place: 100 * (fast[place]["accuracy"] - exact[place]["accuracy"]) for place in both}, {})
        seconds = statistics.median(fast[place]["seconds"] / exact[place]["seconds"] for place in both)
        yield f"bfloat16 less float32: {gap.mean:+.2f} ± {gap.error_of_seeds:.2f} points (standard error of seeds)"
        yield f"a run takes {seconds:.2f} of the time (median; runs not interleaved, evaluation included)"
        yield f"  [{'x' if gap.mean >= -ALLOWED else ' '}] at most {ALLOWED} points lost, on {len(both)} pairs of runs"


def main() -> None:
    """Measures what is not yet kept, for as long as it may, then prints the tables."""
    options = read_arguments(argument_parser(__doc__))
    seeds = range(3 if options.seeds is None else options.seeds)
    jobs = {(data, seed, p): job(data, seed, p) for seed in seeds for data in TEXT_SETS for p in PRECISIONS}

    def missing() -> list[Job]:
        results = kept(NAME)
        return [each for each in jobs.values() if each.key not in results]

    make_runs(NAME, missing, options.data, time.monotonic() + 60 * options.budget_minutes)
    results = kept(NAME)
    places = {p: {(data, seed): each for (data, seed, own), each in jobs.items() if own == p} for p in PRECISIONS}
    measured = {p: {at: results[j.key] for at, j in own.items() if j.key in results} for p, own in places.items()}
    print("\n".join(table(measured)))
    if results:
        print(f"measured on {measured_on(NAME)}")
    earlier = by_setting(kept("fedpft_earlier"))
    found = {
        p: {(data, seed): of for data, own in earlier[setting].items() for seed, of in own.items()}
        for p, setting in EARLIER.items()
    }
    print(f"\nEarlier protocol, measured on {measured_on('fedpft_earlier')}")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
