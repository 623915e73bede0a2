"""What synthetic data are worth where the right answer is known: `python benchmarks/synthetic.py`.

Two tables, each over three seeds. Texts with votes: the preset `synthetic` with ε = 1, 8 and ∞, beside the same number
of texts without votes, and a head trained on the clients' examples. Gaussians of features: the preset
`synthetic-features`, whose one round is compared with FedAvg of the head, and with the head trained on pooled features.
Measurements are kept in `results/synthetic.json`, and the run goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from fedfm import build_experiment, load_recipe, run
from fedfm.clients.readout import features_of, readout_of
from fedfm.data.builtins.planted import is_right
from ledger import mean_and_deviation, measured, measured_on

NAME = "synthetic"
SEEDS = (0, 1, 2)
NO_PRIVACY = ["privacy={kind: none}"]
VOTES = {"1": ["privacy.epsilon=1"], "8": [], "∞": NO_PRIVACY}
"""ε → overrides of the preset."""
HEAD = ["protocol={kind: star}", "local={batch_size: 16, learning_rate: 0.01}"]
FEATURES = {
    "Gaussians, 1 round": [],
    "FedAvg of the head, 1 round": HEAD,
    "FedAvg of the head, 20 rounds": [*HEAD, "federation.rounds=20", "evaluate.every=20"],
}
"""Method → overrides of the preset."""


def with_votes(seed: int, changes: list[str]) -> dict[str, Any]:
    """Scores of each set of texts, and the share of the delivered texts that are right."""
    with tempfile.TemporaryDirectory() as folder:
        finished = run("synthetic", [*changes, f"seed={seed}", f"run_dir={folder}/run", "evaluate.every=4"])
        rows = [json.loads(line) for line in Path(folder, "run", "synthetic.jsonl").read_text().splitlines()]
        sets = json.loads(Path(folder, "run", "synthetic.json").read_text())["sets"]
        privacy = finished.summary["privacy"]
    right = sum(is_right(row["text"], row["label"]) for row in rows) / len(rows)
    return {"sets": sets, "right": right, "epsilon": privacy and privacy["epsilon"]}


def with_features(seed: int, changes: list[str]) -> dict[str, Any]:
    """Accuracy, and bytes from all clients."""
    with tempfile.TemporaryDirectory() as folder:
        summary = run("synthetic-features", [*changes, f"seed={seed}", f"run_dir={folder}/run"]).summary
    return {"accuracy": summary["final"]["accuracy"], "up": summary["bytes"]["up"]}


def pooled(seed: int) -> dict[str, Any]:
    """Accuracy of the head that is trained on the features of all clients in one place."""
    experiment = build_experiment(load_recipe("synthetic-features", [f"seed={seed}"]))
    training = experiment.data.training
    if training is None or training.train.labels is None:
        raise SystemExit("the preset has no simulated clients")
    features = torch.from_numpy(features_of(experiment.evaluator, training.train))
    labels = torch.from_numpy(training.train.labels)
    experiment.plug_in(readout_of(experiment.tunable).fitted(experiment.start, features, labels, 1e-3))
    return {"accuracy": experiment.evaluator(experiment.data.test)["accuracy"], "up": None}


def main() -> None:
    """Measures what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of the three seeds")
    seeds = SEEDS[: parser.parse_args().seeds]
    print("ε | accuracy with votes | without | on real examples | right texts | distance with, without | pairs")
    for epsilon, changes in VOTES.items():
        found = [
            measured(NAME, f"votes, ε {epsilon}, {seed}", lambda s=seed, c=changes: with_votes(s, c)) for seed in seeds
        ]

        def of(name: str, score: str, runs: list[dict[str, Any]] = found) -> str:
            return mean_and_deviation([one["sets"][name][score] for one in runs], digits=3)

        print(
            f"{epsilon} | {of('with votes', 'accuracy')} | {of('without votes', 'accuracy')} | "
            f"{of('real examples', 'accuracy')} | {mean_and_deviation([one['right'] for one in found])} | "
            f"{of('with votes', 'kernel_distance')}, {of('without votes', 'kernel_distance')} | "
            f"{of('with votes', 'distinct_2')}"
        )
    print("\nhead trained on | accuracy | kB from all clients")
    for name, changes in FEATURES.items():
        found = [measured(NAME, f"{name}, {seed}", lambda s=seed, c=changes: with_features(s, c)) for seed in seeds]
        accuracy = mean_and_deviation([one["accuracy"] for one in found], digits=3)
        print(f"{name} | {accuracy} | {mean_and_deviation([one['up'] for one in found], unit=1e-3, digits=0)}")
    found = [measured(NAME, f"pooled, {seed}", lambda s=seed: pooled(s)) for seed in seeds]
    print(f"pooled features | {mean_and_deviation([one['accuracy'] for one in found], digits=3)} | all features")
    print(f"measured on {measured_on(NAME)}")


if __name__ == "__main__":
    main()
