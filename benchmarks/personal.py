"""Whom personalisation helps where clients disagree: `python benchmarks/personal.py`.

Half of eight clients name class y as y + 1 (`federation.label_groups: 2`), which no one model can be right about.
Printed are, over three seeds: mean accuracy on what clients hold out, that of the worst tenth, for which share of the
clients a method beats FedAvg, and for which share it is worse than training alone. FedAvg's own figures come from its
run, local-only and pooled training from the baselines of that run. Each result is kept as soon as it is there.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from typing import Any

from fedfm import run
from ledger import measured, measured_on

SEEDS = (0, 1, 2)
METHODS: dict[str, list[str]] = {
    "fedavg": ["algorithm={name: fedavg}", "evaluate.baselines=[local, pooled]"],
    "ditto, λ = 0.1": [],
    "ditto, λ = 1": ["algorithm.lam=1.0"],
    "personal head": ["algorithm={name: fedavg}", "tune.share=not head"],
    "dual adapters": ["algorithm={name: fedavg}", 'tune={kind: dual-lora, r: 4, share: "*.shared.*"}'],
    "clusters": ["algorithm={name: fedavg}", "protocol={kind: clusters, clusters: 2}"],
}
"""Name → changes of the preset `personal-ditto`."""

Figures = dict[str, dict[str, float]]
"""Column → client id → accuracy."""


def figures(name: str, seed: int) -> Figures:
    """What one run measured for each client."""
    with tempfile.TemporaryDirectory() as folder:
        common = [f"output={folder}", f"seed={seed}", "evaluate.baselines=[]", "evaluate.matrix=false"]
        summary = run("personal-ditto", [*common, *METHODS[name]]).summary
    rows: dict[str, dict[str, float]] = summary["clients_compared"]["by_client"]
    columns = {column for found in rows.values() for column in found}
    return {c: {client: found[c] for client, found in rows.items() if c in found} for c in sorted(columns)}


def line(name: str, seeds: list[tuple[dict[str, float], Figures]]) -> str:
    """One line of the table.

    Args:
        name: of the method.
        seeds: for each seed, the method's accuracy by client, and the figures of FedAvg's run.
    """
    every = [(client, own, plain) for own, plain in seeds for client in own]

    def share(column: str, sign: int) -> float:
        return statistics.mean(sign * own[c] > sign * plain[column][c] for c, own, plain in every)

    def spread(values: list[float]) -> str:
        return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"

    means = spread([statistics.mean(own.values()) for own, _ in seeds])
    worst = spread([min(own.values()) for own, _ in seeds])
    return f"{name:14} | {means} | {worst} | {share('after', 1):13.0%} | {share('local', -1):16.0%}"


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found: dict[str, list[Figures]] = {}
    for name in METHODS:
        for seed in SEEDS:
            result: Any = measured("personal", f"{name}, seed {seed}", lambda name=name, seed=seed: figures(name, seed))
            found.setdefault(name, []).append(result)
    plain = found["fedavg"]
    columns = {"local-only": "local", "pooled": "pooled"}
    print(measured_on("personal"))
    print("method         | mean          | worst tenth   | beats FedAvg | worse than alone")
    for name, column in columns.items():
        print(line(name, [(of[column], of) for of in plain]))
    for name, results in found.items():
        print(line(name, [(of["after"], base) for of, base in zip(results, plain, strict=True)]), flush=True)


if __name__ == "__main__":
    main()
