"""How much is forgotten of five tasks of two digits each: `python benchmarks/continual.py`.

FedAvg, replay, EWC and LwF train a small vision transformer in full; FedAvg and O-LoRA train a LoRA of rank 20 in it.
All take equal local steps. `--heads per-task` gives each task a head of its own. Each method has four tries on one
seed; the one with the best accuracy on validation data after the last task is run with the seeds of `SEEDS`. Printed
are means over these seeds, with ± the standard deviation between them (n − 1). Each run is kept in
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

LORA = "tune={kind: lora, r: 20, target_modules: all}"
"""Four ranks for each of five tasks."""
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
    "lwf": [
        ("local.replay=null", "algorithm.name=lwf", f"algorithm.weight={weight}", f"local.learning_rate={rate}")
        for rate in (1e-3, 2e-3)
        for weight in (1.0, 5.0)
    ],
    "fedavg of LoRA": [("local.replay=null", LORA, f"local.learning_rate={rate}") for rate in (2e-3, 5e-3, 1e-2, 2e-2)],
    "o-lora": [
        ("local.replay=null", LORA, f"algorithm={{name: o-lora, strength: {strength}}}", f"local.learning_rate={rate}")
        for rate in (5e-3, 1e-2)
        for strength in (0.5, 5.0)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", choices=("shared", "per-task"), default="shared", help="of the stream")
    heads = parser.parse_args().heads
    alike = () if heads == "shared" else ("federation.stream={kind: labels, tasks: 5, heads: per-task}",)
    print(f"{machine()}; n = {len(SEEDS)} seeds, ± standard deviation between them")
    print("method | " + " | ".join(FIGURES) + " | MB | s | chosen of four")
    for method, own in METHODS.items():
        tries = [(*alike, *overrides) for overrides in own]
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
