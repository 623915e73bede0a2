"""How much is forgotten of five tasks of two digits each: `python benchmarks/continual.py`.

FedAvg, replay and EWC train a small vision transformer in full, with equal local steps. Each method has four tries on
one seed; the one with the best accuracy on validation data after the last task is run with the seeds of `SEEDS`.
Printed are means over these seeds, with ± the standard deviation between them (n − 1). Each run is kept in
`results/continual.json` as soon as it has ended, so that the benchmark can be stopped.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from fedfm import run
from fedfm.recipe import load_recipe
from ledger import digest, machine, measured

SEEDS = (0, 1, 2)
TRIED = 100
"""Seed of the tries."""
FIGURES = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer")

ALIKE = ("data.validation=0.2", "local.max_steps=10", "evaluate.every=4")
"""Overrides of the preset `continual` in all runs."""

RATES = (5e-4, 1e-3, 2e-3, 4e-3)
METHODS: dict[str, list[tuple[str, ...]]] = {
    "fedavg": [("local.replay=null", f"local.learning_rate={rate}") for rate in RATES],
    "replay": [
        (f"local.replay={{examples: 40, share: {share}}}", f"local.learning_rate={rate}")
        for rate in (1e-3, 2e-3)
        for share in (0.5, 0.75)
    ],
    "ewc": [
        ("local.replay=null", "algorithm.name=ewc", f"algorithm.strength={strength}", f"local.learning_rate={rate}")
        for rate in (1e-3, 2e-3)
        for strength in (100.0, 10_000.0)
    ],
}
"""Method → its tries."""


def played(overrides: tuple[str, ...], seed: int) -> dict[str, Any]:
    """The figures of a run, and its accuracy on validation data after the last round."""
    changes = [*ALIKE, *overrides, f"seed={seed}"]

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            finished = run(load_recipe("continual", [*changes, f"run_dir={Path(folder) / 'run'}"]))
            metrics, summary = finished.metrics, finished.summary
            checked = metrics[metrics["split"] == "validation"]["accuracy"].iloc[-1]
            figures = {name: summary["stream"][name] for name in FIGURES}
            sent = summary["bytes"]["down"] + summary["bytes"]["up"]
            return {**figures, "validation": float(checked), "bytes": sent, "seconds": summary["seconds"]["total"]}

    found: dict[str, Any] = measured("continual", digest(changes), measure)
    return found


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{machine()}; n = {len(SEEDS)} seeds, ± standard deviation between them")
    print("method | " + " | ".join(FIGURES) + " | MB | s | chosen of four")
    for method, tries in METHODS.items():
        chosen = max(tries, key=lambda overrides: played(overrides, TRIED)["validation"])
        runs = [played(chosen, seed) for seed in SEEDS]
        cells = [
            f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"
            for values in ([found[name] for found in runs] for name in FIGURES)
        ]
        size, seconds = (statistics.mean(found[key] for found in runs) for key in ("bytes", "seconds"))
        print(f"{method} | {' | '.join(cells)} | {size / 1e6:.1f} | {seconds:.0f} | {' '.join(chosen)}", flush=True)


if __name__ == "__main__":
    main()
