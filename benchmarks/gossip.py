"""Federations without a server against FedAvg: `python benchmarks/gossip.py [--only NAME …] [--budget-minutes N]`.

MiniLM with LoRA on `builtin:pydoc` over 16 clients, which all train in every round, with equally many local steps in
every run; three seeds. Printed are the accuracy of the delivered model, which is the clients' mean, the points between
it and FedAvg with the same seed, the clients' distance from their mean, the bytes of a message and those of a whole
run. Runs are kept one by one, so that the benchmark goes on where it was stopped. ``--budget-minutes 0`` prints what is
there. ``--quick`` makes each run tiny, to see that everything works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from fedfm import __version__, load_recipe, run
from ledger import claimed, digest, kept, mean_and_deviation, measured, measured_on

NAME, SEEDS, CLIENTS = "gossip", 3, 16
FEDAVG, MISSING = "FedAvg", "—"
INT8 = [{"kind": "quantize", "bits": 8}]
TOP_K = [{"kind": "top-k", "share": 0.1, "error_feedback": False}]


def _gossip(graph: str, **more: Any) -> dict[str, Any]:
    return {"protocol": {"kind": "gossip", "graph": {"kind": graph}, **more}}


RUNS: Mapping[str, dict[str, Any]] = {
    FEDAVG: {"aggregate": {"rule": "mean", "weights": "uniform"}},
    "ring": _gossip("ring"),
    "ring, D-PSGD order": _gossip("ring", order="mix-then-train"),
    "torus": _gossip("torus"),
    "exponential": _gossip("exponential"),
    "random regular, 4": _gossip("random-regular"),
    "complete": _gossip("complete"),
    "ring, 20 % absent": _gossip("ring", absence=0.2),
    "ring, CHOCO int8": {**_gossip("ring"), "updates": INT8},
    "ring, CHOCO top 10 %": {**_gossip("ring", gamma=0.3), "updates": TOP_K},
    "ring, ADF-LoRA": {**_gossip("ring"), "aggregate": {"rule": "rolora"}},
}


def recipe(name: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """The recipe of a run, without its folder."""
    rounds = 2 if quick else 8
    return {
        "name": NAME,
        "seed": seed,
        "model": {"path": "builtin:tiny-bert" if quick else "builtin:minilm"},
        "task": {"kind": "text-classification"},
        "data": {"train": "builtin:pydoc", "test": "builtin:pydoc", "max_length": 32, "limit": 160 if quick else 1600},
        "federation": {"clients": CLIENTS, "rounds": rounds, "partition": {"kind": "dirichlet", "alpha": 1.0}},
        "local": {"batch_size": 16, "learning_rate": 4e-3, "max_steps": 1 if quick else 3},
        "tune": {"kind": "lora", "r": 8, "target_modules": "attention"},
        "runtime": {"processes": 1},
        "evaluate": {"every": rounds},
        "checkpoint": {"every": rounds, "keep": 1},
        **RUNS[name],
    }


def key(name: str, seed: int, *, quick: bool) -> str:
    """What a run is for people, and a digest of all that decides it."""
    return f"{name} | seed {seed} [{digest([recipe(name, seed, quick=quick), __version__])}]"


def measure(name: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """Accuracy, figures of the protocol and bytes of a run."""
    with tempfile.TemporaryDirectory() as scratch:
        summary = run(load_recipe({**recipe(name, seed, quick=quick), "run_dir": f"{scratch}/run"})).summary
    return {
        "accuracy": summary["final"]["accuracy"],
        "protocol": summary["protocol"],
        "bytes": summary["bytes"]["down"] + summary["bytes"]["up"],
        "seconds": summary["seconds"]["total"],
    }


def table(names: list[str], *, quick: bool) -> str:
    """One line a run: means over the seeds that are there."""
    results = kept(NAME)
    lines = ["| run | seeds | accuracy, % | points from FedAvg | spectral gap | distance | kB an edge | MB in all |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in names:
        found = {seed: results.get(key(name, seed, quick=quick)) for seed in range(SEEDS)}
        there = {seed: result for seed, result in found.items() if result}
        base = {seed: results.get(key(FEDAVG, seed, quick=quick)) for seed in there}
        if not there:
            lines.append(f"| {name} | 0 {'| ' * 6}|")
            continue
        apart = [there[seed]["accuracy"] - of["accuracy"] for seed, of in base.items() if of]
        figures = [
            _mean([result["protocol"].get(figure) for result in there.values()], unit, form)
            for figure, unit, form in (
                ("spectral_gap", 1.0, ".3f"),
                ("consensus_distance", 1.0, ".2f"),
                ("edge_bytes", 1e-3, ".1f"),
            )
        ]
        cells = [
            str(len(there)),
            mean_and_deviation([result["accuracy"] for result in there.values()], 100, 1),
            mean_and_deviation(apart, 100, 1) if apart else MISSING,
            *figures,
            f"{statistics.mean(result['bytes'] for result in there.values()) / 1e6:.1f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: list[float | None], unit: float, form: str) -> str:
    known = [value * unit for value in values if value is not None]
    return format(statistics.mean(known), form) if known else MISSING


def main() -> None:
    """Measures what is missing, as long as the budget lasts, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="runs to make")
    parser.add_argument("--budget-minutes", type=float, default=60.0, help="no run is begun after so many")
    parser.add_argument("--quick", action="store_true", help="tiny runs; their figures mean nothing")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.budget_minutes
    for seed in range(SEEDS):
        for name in options.only:
            which = key(name, seed, quick=options.quick)
            if time.monotonic() >= end or which in kept(NAME):
                continue
            with claimed(NAME, which) as free:
                if free:
                    found = measured(NAME, which, lambda: measure(name, seed, quick=options.quick))  # noqa: B023
                    print(f"{which}: {100 * found['accuracy']:.1f} % in {found['seconds']:.0f} s", flush=True)
    if kept(NAME):
        print(f"\n{table(options.only, quick=options.quick)}\n\nMeasured on {measured_on(NAME)}.")


if __name__ == "__main__":
    main()
