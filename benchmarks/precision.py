"""Frozen blocks in bfloat16 against float32: is what is learnt as good?

    python benchmarks/precision.py [--seeds 3] [--budget-minutes N] [--data FOLDER]

The runs without a proxy of `fedpft.py` (MiniLM, LoRA r 8, 100 clients, five sets), whose clients compute in bfloat16,
and the same in float32: same clients, same batches, same order. Runs in bfloat16 are shared with `fedpft.py`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from fedpft import NAME, argument_parser, measure, read_arguments
from fedpft_jobs import SETS, Job
from fedpft_tables import MISSING, Difference, grid
from ledger import claimed, kept, mean_and_deviation, measured, measured_on

FLOAT32 = ("runtime.precision=float32",)
ALLOWED = 0.3
"""Points that may be lost."""


def main() -> None:
    """Measures what is not yet kept, for as long as it may, then prints the table."""
    options = read_arguments(argument_parser(__doc__))
    pairs = {
        (data, seed): [Job(data, "full", seed), Job(data, "full", seed, overrides=FLOAT32)]
        for seed in range(options.seeds)
        for data in SETS
    }
    end = time.monotonic() + 60 * options.budget_minutes
    for job in [job for pair in pairs.values() for job in pair]:
        if time.monotonic() >= end:
            break
        with claimed(NAME, job.key) as mine, tempfile.TemporaryDirectory() as folder:
            if mine:
                print(job.key, flush=True)
                measured(NAME, job.key, partial(measure, job, options.data.absolute(), Path(folder)))
    results = kept(NAME)
    done = {place: [results[job.key] for job in pair] for place, pair in pairs.items() if _measured(pair, results)}
    rows = [["accuracy in %", *SETS]]
    for name, column in (("bfloat16", 0), ("float32", 1)):
        values = [[found[column]["accuracy"] for (set_, _), found in done.items() if set_ == data] for data in SETS]
        rows.append([name, *(mean_and_deviation(own, 100, 1) if own else MISSING for own in values)])
    print("\n".join(grid(rows)))
    gap = Difference({place: 100 * (one["accuracy"] - other["accuracy"]) for place, (one, other) in done.items()})
    if gap.pairs:
        seconds = statistics.median(one["seconds"] / other["seconds"] for one, other in done.values())
        print(f"bfloat16 less float32: {gap.mean:+.2f} ± {gap.error_of_seeds:.2f} points (standard error of seeds)")
        print(f"a run takes {seconds:.2f} of the time (median; runs not interleaved, evaluation included)")
        holds = len(done) == len(pairs) and gap.mean >= -ALLOWED
        print(
            f"  [{'x' if holds else ' '}] at most {ALLOWED} points lost, on {len(done)} of {len(pairs)} pairs of runs"
        )
        print(f"measured on {measured_on(NAME)}")


def _measured(pair: list[Job], results: dict[str, object]) -> bool:
    return all(job.key in results for job in pair)


if __name__ == "__main__":
    main()
