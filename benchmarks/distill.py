"""What distillation gives each architecture: alone, by FedMD and by DS-FL; beside FedAvg and pooled data.

    python benchmarks/distill.py [--budget-minutes N] [--quick]

The recipe `distill`, whose six clients have three architectures, with three seeds. `alone` trains each client with as
many steps on its own data, but without the lessons. FedAvg and pooled data are of MiniLM on all six clients, with the
same local settings and rounds. Accuracy is on the test set; ± is the standard deviation over seeds, each of which has
another split. Bytes are all that crossed, both ways. Runs are kept one by one, so that the benchmark goes on where it
was stopped. ``--quick`` makes each run tiny, to see that everything works; its figures mean nothing.
``--budget-minutes 0`` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fedfm import load_recipe, run
from ledger import claimed, digest, kept, mean_and_deviation, measured, measured_on

NAME = "distill"
SEEDS = 3
METHODS: Mapping[str, dict[str, Any]] = {
    "FedMD": {},
    "DS-FL": {"protocol.combine": {"kind": "sharpened"}, "protocol.weights": "uniform", "evaluate.baselines": []},
    "FedAvg of MiniLM": {
        "protocol": {"kind": "star"},
        "federation.models": [],
        "evaluate.baselines": ["pooled"],
    },
}
"""Method → what it changes in the recipe."""
QUICK: dict[str, Any] = {"federation.rounds": 2, "local.max_steps": 1, "data.limit": 60, "data.test": 0.2}


def job(method: str, seed: int, *, quick: bool) -> tuple[str, dict[str, Any]]:
    """The key of a run, and what it changes in the recipe."""
    changes = {**METHODS[method], "seed": seed, **(QUICK if quick else {})}
    return f"{method} {seed} {digest([load_recipe('distill').model_dump(mode='json'), changes])}", changes


def figures(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy of everything that a run measures, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
        began = time.process_time()
        summary = run(load_recipe("distill", [*overrides, f"output={Path(folder)}"])).summary
    metric = summary["metric"]
    models = [
        {"model": of["model"], **{when: of[when] and of[when][metric] for when in ("final", "alone")}}
        for of in summary["models"]
    ]
    return {
        "server": summary["final"][metric],
        "models": models,
        "pooled": summary["baselines"].get("pooled"),
        "bytes": summary["bytes"]["down"] + summary["bytes"]["up"],
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def show(*, quick: bool) -> None:
    """Prints a table of what is kept."""
    found = kept(NAME)
    print(f"\nmeasured on {measured_on(NAME)}" if found else "nothing is measured yet")
    rows: dict[str, list[float]] = {}
    for method in METHODS:
        for seed in range(SEEDS):
            key, _ = job(method, seed, quick=quick)
            if key not in found:
                continue
            result = found[key]
            for of in result["models"]:
                rows.setdefault(f"{of['model']}, {method}", []).append(of["final"])
                if of["alone"] is not None:
                    rows.setdefault(f"{of['model']}, alone", []).append(of["alone"])
            rows.setdefault(f"server, {method}", []).append(result["server"])
            if result["pooled"] is not None:
                rows.setdefault("MiniLM, pooled", []).append(result["pooled"])
            print(f"{key.rsplit(' ', 1)[0]}: {result['bytes'] / 1e6:.2f} MB, {result['cpu_seconds']:.0f} s of CPU")
    for name, values in sorted(rows.items()):
        print(f"{name:45} {mean_and_deviation(values, 100, 1)}  ({len(values)} seeds)")


def main() -> None:
    """Measures until the budget is spent, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-minutes", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.budget_minutes
    for seed in range(SEEDS):
        for method in METHODS:
            key, changes = job(method, seed, quick=options.quick)
            if time.monotonic() >= ends or key in kept(NAME):
                continue
            with claimed(NAME, key) as mine:
                if mine:
                    measured(NAME, key, partial(figures, changes))
    show(quick=options.quick)


if __name__ == "__main__":
    main()
