"""Pre-training from zero: DiLoCo and SparseLoCo beside data-parallel training that synchronises in every step.

    python benchmarks/pretrain.py [--seeds 3] [--quick] [KEY=VALUE …]

A small Llama on Python's documentation, four clients of 50 local steps a round. All rows read as many tokens and
take as many steps of AdamW under one schedule. The data-parallel row is one client whose batch is that of all four. The
bytes of data-parallel training are measured in rounds of one step, and counted for all steps. ``--quick`` takes a
smaller model and fewer rounds. KEY=VALUE overrides change all rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev

from fedfm import run

CLIENTS, STEPS, BATCH = 4, 50, 8
FULL = ("federation.rounds=16", "evaluate.every=4")
QUICK = (
    "federation.rounds=8",
    "evaluate.every=2",
    "data.max_length=64",
    "data.limit=3000",
    "model.config={hidden_size: 48, num_hidden_layers: 2, intermediate_size: 128}",
)
ALONE = ("federation.clients=1", f"local.batch_size={CLIENTS * BATCH}", "algorithm.name=fedavg")
ROWS = {
    "data-parallel": ("pretrain", ALONE, ""),
    "FedAvg": ("pretrain", ("algorithm.name=fedavg",), "data-parallel"),
    "DiLoCo, μ = 0.5": ("pretrain", ("algorithm.momentum=0.5",), "data-parallel"),
    "DiLoCo, μ = 0.9": ("pretrain", ("algorithm.momentum=0.9",), "data-parallel"),
    "SparseLoCo": ("pretrain-sparse", (), "DiLoCo, μ = 0.5"),
}
"""Row of the table → preset, overrides, and the row that it is compared with."""


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        curve: round → loss on the test set.
        up: bytes that clients sent in a round.
        both: bytes of a round, both ways.
    """

    curve: dict[int, float]
    up: float
    both: float


def played(preset: str, overrides: Sequence[str]) -> Outcome:
    """One run, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        summary = run(preset, [*overrides, "data.test=0.05", f"run_dir={folder}/run"]).summary
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    curve = {line["round"]: line["loss"] for line in records if line.get("split") == "test"}
    rounds, moved = summary["rounds"], summary["bytes"]
    return Outcome(curve, moved["up"] / rounds, (moved["up"] + moved["down"]) / rounds)


def main() -> None:
    """Prints the curves; losses and bytes, and what they are beside those of another row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    asked = parser.parse_args()
    size = [*(QUICK if asked.quick else FULL), *asked.overrides]
    each = played("pretrain", [*size, "local.max_steps=1", "federation.rounds=2", "evaluate.every=2"])
    found: dict[str, list[Outcome]] = {name: [] for name in ROWS}
    for seed in range(asked.seeds):
        for name, (preset, overrides, _) in ROWS.items():
            found[name].append(played(preset, [*size, *overrides, f"seed={seed}"]))
            print(f"seed {seed}, {name}: {found[name][-1].curve}", flush=True)
    numbers = sorted(found["data-parallel"][0].curve)
    print("\n| loss after round | " + " | ".join(map(str, numbers)) + " |\n|---|" + "---|" * len(numbers))
    for name, outcomes in found.items():
        print(f"| {name} | " + " | ".join(f"{mean(o.curve[n] for o in outcomes):.3f}" for n in numbers) + " |")
    print("\n| | final loss | bytes a round, up | both ways | beside | loss | up | both ways |\n|" + "---|" * 8)
    known: dict[str, tuple[float, float, float]] = {}
    for name, (_, _, other) in ROWS.items():
        losses = [outcome.curve[numbers[-1]] for outcome in found[name]]
        up, both = mean(o.up for o in found[name]), mean(o.both for o in found[name])
        if name == "data-parallel":
            up, both = each.up * STEPS, each.both * STEPS
        known[name] = mean(losses), up, both
        beside = " |  | "
        if other:
            loss, more_up, more_both = known[other]
            beside = f"{mean(losses) / loss - 1:+.1%} | 1/{more_up / up:.0f} | 1/{more_both / both:.0f}"
        print(f"| {name} | {mean(losses):.3f} ± {pstdev(losses):.3f} | {up:,.0f} | {both:,.0f} | {other} | {beside} |")


if __name__ == "__main__":
    main()
