"""The order N < B < FedPFT < no proxy on one set, in less than 30 minutes of two cores.

    python benchmarks/fedpft_quick.py --data FOLDER|hf [--seeds 3]

trec6 with a tenth of the FFN and no whole layer, 15 rounds, one learning rate for all. Nothing is tuned: it shows the
order of the methods, not what each can reach. FedPFT is delivered with plug-in distillation. Two processes may measure
at once, with OMP_NUM_THREADS=1. `--rounds 10 --train 2000` is too short for the order of N and B.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from fedpft_jobs import Job
from fedpft_methods import METHODS, Scale
from fedpft_runner import argument_parser, make_runs, read_arguments, scale_of
from fedpft_tables import MISSING, grid, percent
from ledger import kept

NAME = "fedpft_quick"
DATA, RATE, ROUNDS, TRAIN, SEEDS = "trec6", 3e-3, 15, 4000, 3
ORDER = ("N", "B", "fedpft", "full")


def job(method: str, seed: int, scale: Scale) -> Job:
    """A run of the table."""
    size = "matched" if method == "full" else "harder"
    return Job(DATA, method, seed, RATE, scale.rounds[-1], "test", size=size, scale=scale)


def table(seeds: int, scale: Scale) -> Iterator[str]:
    """Accuracy by method, and whether the means have the order."""
    results, means, rows = kept(NAME), [], [["", "accuracy in %", "plugged", "the proxy itself", "n", "seconds a run"]]
    for method in ORDER:
        found = [results[key] for seed in range(seeds) if (key := job(method, seed, scale).key) in results]
        delivered = [result["plugged"] if result["distilled"] is None else result["distilled"] for result in found]
        own = [result["proxy_accuracy"] for result in found if result["proxy_accuracy"] is not None]
        seconds = f"{statistics.mean(result['seconds'] for result in found):.0f}" if found else MISSING
        plugged = percent([result["plugged"] for result in found])
        rows.append([METHODS[method].title, percent(delivered), plugged, percent(own), str(len(found)), seconds])
        means += [statistics.mean(delivered)] if found else []
    yield f"{DATA}, test set, {scale.rounds[-1]} rounds; ± is the standard deviation over n seeds"
    yield from grid(rows)
    if len(means) == len(ORDER):
        yield f"N < B < FedPFT < no proxy: {'yes' if means == sorted(set(means)) else 'no'}"


def main() -> None:
    """Makes the runs that are missing, then prints the table."""
    parser = argument_parser(__doc__)
    parser.set_defaults(seeds=SEEDS, rounds=[ROUNDS], train=TRAIN)
    options = read_arguments(parser)
    scale = scale_of(options)
    jobs = [job(method, seed, scale) for seed in range(options.seeds) for method in ORDER]

    def missing() -> Iterator[Job]:
        results = kept(NAME)
        return (job for job in jobs if job.key not in results)

    make_runs(NAME, missing, options.data, time.monotonic() + 60 * options.budget_minutes)
    print("\n".join(table(options.seeds, scale)))


if __name__ == "__main__":
    main()
