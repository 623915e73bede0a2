"""Pre-training from zero: DiLoCo and SparseLoCo beside data-parallel training that synchronises in every step.

    python benchmarks/pretrain.py [--seeds 3] [--quick] [KEY=VALUE …]

A small Llama on Python's documentation, four clients of 50 local steps a round. All three rows read as many tokens and
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
    "data-parallel": ("pretrain", ALONE),
    "DiLoCo": ("pretrain", ()),
    "SparseLoCo": ("pretrain-sparse", ()),
}
"""Row of the table → preset and overrides."""


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
    """Prints the curves, and losses and bytes beside those of the row above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    asked = parser.parse_args()
    size = [*(QUICK if asked.quick else FULL), *asked.overrides]
    each = played("pretrain", [*size, "local.max_steps=1", "federation.rounds=2", "evaluate.every=2"])
    found: dict[str, list[Outcome]] = {name: [] for name in ROWS}
    for seed in range(asked.seeds):
        for name, (preset, overrides) in ROWS.items():
            found[name].append(played(preset, [*size, *overrides, f"seed={seed}"]))
            print(f"seed {seed}, {name}: {found[name][-1].curve}", flush=True)
    numbers = sorted(found["DiLoCo"][0].curve)
    print("\n| loss after round | " + " | ".join(map(str, numbers)) + " |\n|---|" + "---|" * len(numbers))
    for name, outcomes in found.items():
        print(f"| {name} | " + " | ".join(f"{mean(o.curve[n] for o in outcomes):.3f}" for n in numbers) + " |")
    print("\n| | final loss | beside the row above | bytes a round, up | both ways | beside the row above, up | both |")
    print("|---|---|---|---|---|---|---|")
    before: tuple[float, float, float] | None = None
    for name, outcomes in found.items():
        losses = [outcome.curve[numbers[-1]] for outcome in outcomes]
        up, both = mean(o.up for o in outcomes), mean(o.both for o in outcomes)
        if name == "data-parallel":
            up, both = each.up * STEPS, each.both * STEPS
        beside = ["", "", ""]
        if before is not None:
            beside = [f"{mean(losses) / before[0] - 1:+.1%}", f"1/{before[1] / up:.0f}", f"1/{before[2] / both:.0f}"]
        figures = f"{mean(losses):.3f} ± {pstdev(losses):.3f} | {beside[0]} | {up:,.0f} | {both:,.0f}"
        print(f"| {name} | {figures} | {beside[1]} | {beside[2]} |")
        before = mean(losses), up, both


if __name__ == "__main__":
    main()
