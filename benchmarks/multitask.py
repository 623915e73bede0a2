"""Three tasks on one model together, each alone, each client alone, all data in one place: three seeds.

    python benchmarks/multitask.py [--seeds 3] [KEY=VALUE …]

The federation is that of the preset `multitask`. A task alone has its third of the clients, of the cohort and of the
examples, so that its clients do the same work. The figures of `local` (a client's model on all test examples of its
task) and `pooled` (all examples of the task in one place) are the baselines of that run. Each result is kept as soon as
it is there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedfm import load_recipe, run
from ledger import digest, mean_and_deviation, measured, measured_on

NAME = "multitask"

MAIN = {"chapter": "accuracy", "topics": "micro_f1", "length": "r2"}
"""Task → its main metric."""


def together(seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Final figures of all tasks on one model, and the mean of the pooled baseline."""
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"seed={seed}", f"run_dir={folder}/run", "evaluate.baselines=[pooled]", *overrides]
        summary = run(load_recipe("multitask", changes)).summary
    return {"final": summary["final"], "pooled": summary["baselines"]["pooled"], "bytes": summary["bytes"]}


def alone(task: str, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Final figures of one task on a model of its own, with the baselines of its clients."""
    shipped = load_recipe("multitask", overrides)
    federation, parts = shipped.federation, len(shipped.task.part_names)
    values = shipped.model_dump()
    values["task"]["tasks"] = [own for own in values["task"]["tasks"] if own["name"] == task]
    values["data"]["limit"] = shipped.data.limit // parts
    values["federation"] |= {"clients": federation.clients // parts, "per_round": federation.per_round // parts}
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"seed={seed}", f"run_dir={Path(folder) / 'run'}", "evaluate.baselines=[local, pooled]"]
        summary = run(load_recipe(values, changes)).summary
    return {"final": summary["final"], **summary["baselines"], "bytes": summary["bytes"]}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="other settings, for all runs")
    options = parser.parse_args()
    key, seeds = digest(options.overrides), range(options.seeds)
    joint = [measured(NAME, f"together {seed} {key}", lambda s=seed: together(s, options.overrides)) for seed in seeds]
    print("task | metric | together | alone | local | pooled")
    for task, metric in MAIN.items():
        own = [
            measured(NAME, f"{task} {seed} {key}", lambda t=task, s=seed: alone(t, s, options.overrides))
            for seed in seeds
        ]
        columns = (
            [each["final"][f"{metric}.{task}"] for each in joint],
            [each["final"][f"{metric}.{task}"] for each in own],
            [each["local"]["mean"] for each in own],
            [each["pooled"] for each in own],
        )
        print(f"{task} | {metric} | " + " | ".join(mean_and_deviation(column, digits=3) for column in columns))
    print(f"mean of all, together: {mean_and_deviation([each['final']['mean_score'] for each in joint], digits=3)}")
    print(f"mean of all, pooled: {mean_and_deviation([each['pooled'] for each in joint], digits=3)}")
    print(measured_on(NAME))


if __name__ == "__main__":
    main()
