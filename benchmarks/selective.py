"""Selective layers on 20 Newsgroups with MiniLM: every strategy under equal and unequal budgets, three seeds.

    python benchmarks/selective.py [--data ../shared/data/newsgroups20] [--seeds 3] [--split validation] [KEY=VALUE …]

As tables 1 and 2 of Sun et al., arXiv:2408.15600: budgets of 1 and 2 layers for all clients, and of 1 to 4 dealt to
them; labels split by a Dirichlet draw with α = 0.1. ``--split validation`` holds back a fifth of the training data and
leaves the test file alone: choose with it. KEY=VALUE overrides change the recipe, such as ``tune.kind=full``. Each
result is kept as soon as it is there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedfm import Recipe, load_recipe, run
from ledger import mean_and_deviation, measured, measured_on

NAME = "selective"

STRATEGIES: dict[str, dict[str, Any]] = {
    "full": {"strategy": "full"},
    "bottom": {"strategy": "bottom"},
    "top": {"strategy": "top"},
    "both": {"strategy": "both"},
    "random": {"strategy": "random"},
    "snr": {"strategy": "snr", "batches": 2},
    "rgn": {"strategy": "rgn"},
    "rgn with agreement": {"strategy": "rgn", "lam": 0.002},
    "pro, λ 0": {"strategy": "pro", "lam": 0.0},
    "pro, λ 0.002": {"strategy": "pro", "lam": 0.002},
    "pro, λ 0.01": {"strategy": "pro", "lam": 0.01},
}
"""Row of the table → the recipe's `select`; the last rows show how much λ matters."""

BUDGETS: dict[str, Any] = {"1": 1, "2": 2, "1 to 4": [1, 2, 3, 4]}
"""Column of the table → `select.budget`."""

HELD_BACK = 0.2
"""Share of the training data that is the validation set."""


def recipe(
    data: Path, split: str, seed: int, folder: Path, select: Mapping[str, Any], overrides: Sequence[str]
) -> Recipe:
    """The federated job: 50 clients, 10 a round, 30 rounds of one pass, LoRA r 8 on attention and FFN."""
    return load_recipe(
        {
            "name": f"selective-{seed}",
            "seed": seed,
            "run_dir": str(folder / "run"),
            "model": {"path": "builtin:minilm"},
            "task": {"kind": "text-classification"},
            "data": {
                "train": str(data / "train.jsonl.gz"),
                "test": HELD_BACK if split == "validation" else str(data / "test.jsonl.gz"),
                "max_length": 128,
            },
            "federation": {
                "clients": 50,
                "per_round": 10,
                "rounds": 30,
                "partition": {"kind": "dirichlet", "alpha": 0.1},
            },
            "local": {"batch_size": 16, "learning_rate": 4e-3},
            "tune": {"kind": "lora", "r": 8, "target_modules": "all"},
            "select": {"kind": "layers", **select},
            "runtime": {"precision": "float32"},
            "evaluate": {"every": 10},
        },
        overrides,
    )


def result(data: Path, split: str, seed: int, select: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, float]:
    """Runs the recipe; accuracy, bytes up, and means over rounds of the figures of the choice."""
    with tempfile.TemporaryDirectory() as folder:
        finished = run(recipe(data, split, seed, Path(folder), select, overrides))
        rows = finished.metrics[finished.metrics["split"] == "selection"]
        return {
            "accuracy": finished.summary["final"]["accuracy"],
            "bytes_up": finished.summary["bytes"]["up"],
            "distinct_layers": float(rows["distinct_layers"].mean()),
            "disagreement": float(rows["disagreement"].mean()),
        }


def main() -> None:
    """Measures what is not yet kept, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "newsgroups20")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", choices=["test", "validation"], default="validation")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"{options.data} is not there; name a folder with train and test .jsonl.gz (--data)")
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(options.seeds):  # seed by seed, so that an interrupted table is complete for some seeds
        for column, budget in BUDGETS.items():
            for row, strategy in STRATEGIES.items():
                if strategy["strategy"] == "full" and column != next(iter(BUDGETS)):
                    continue
                select = {"budget": budget, **strategy}
                key = " ".join([row, "budget", column, options.split, *options.overrides, f"seed {seed}"])
                job = partial(result, options.data, options.split, seed, select, options.overrides)
                found.setdefault((row, column), []).append(measured(NAME, key, job))
    print(f"MiniLM on 20 Newsgroups, {options.seeds} seeds, {options.split} (mean ± deviation over seeds)")
    for figure, unit, title in (
        ("accuracy", 100.0, "accuracy in %"),
        ("bytes_up", 1e-6, "MB up"),
        ("distinct_layers", 1.0, "layers that some client trained, a round"),
        ("disagreement", 1.0, "Σ χ² of weights and data, a round"),
    ):
        print(f"\n  {title:<40}" + "".join(f"{f'budget {column}':<18}" for column in BUDGETS))
        for row in STRATEGIES:
            cells = [found.get((row, column), []) for column in BUDGETS]
            texts = [mean_and_deviation([each[figure] for each in cell], unit) if cell else "" for cell in cells]
            print(f"  {row:<40}" + "".join(f"{text:<18}" for text in texts))
    print(f"\n  measured on {measured_on(NAME)}")


if __name__ == "__main__":
    main()
