"""Prompts against LoRA, over clients: `python benchmarks/prompts.py [--seeds 3] [--smoke]`.

- Images and texts: `builtin:small-clip` is trained in full on 400 pairs in one place. Then ten clients with all pairs
  tune it by vectors in the text (PromptFL), by attention over the image's features (FedCLIP), by the projections alone,
  or by LoRA with the projections.
- Texts: the preset `prompt-text` with soft prompts, p-tuning, prefixes, the head alone, or LoRA; all train the head.
  Three tenths of its training set are held back as the test set.

Rates were searched for `prompt` on texts alone; the others are usual ones, so that a small difference means nothing.
Printed are the metric on the test set and the kilobytes that a client sends a round. Each result is kept as soon as it
is there. `--smoke` runs one round of one seed, and keeps its results apart.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from fedfm import run
from ledger import mean_and_deviation, measured, measured_on

QUIETLY = "evaluate.every=100"
"""Only the first and the last model are measured."""
PAIRS: dict[str, dict[str, Any]] = {
    "prompt": {"tune": {"kind": "prompt", "num_virtual_tokens": 4}, "learning_rate": 1e-2},
    "attention-adapter": {"tune": {"kind": "attention-adapter"}, "learning_rate": 1e-3},
    "projections": {"tune": {"kind": "head"}, "learning_rate": 1e-3},
    "lora": {"tune": {"kind": "lora", "r": 8, "target_modules": "attention"}, "learning_rate": 1e-3},
}
TEXTS: dict[str, dict[str, Any]] = {
    "prompt": {"tune": {"kind": "prompt", "num_virtual_tokens": 5}, "learning_rate": 3e-2},
    "p-tuning": {
        "tune": {"kind": "p-tuning", "num_virtual_tokens": 5, "encoder_hidden_size": 128},
        "learning_rate": 5e-3,
    },
    "prefix": {"tune": {"kind": "prefix", "num_virtual_tokens": 5}, "learning_rate": 3e-2},
    "head": {"tune": {"kind": "head"}, "learning_rate": 1e-2},
    "lora": {"tune": {"kind": "lora", "r": 8, "target_modules": "attention"}, "learning_rate": 3e-3},
}
"""Name → what is tuned, at which rate."""


def pairs(seed: int, rounds: int) -> dict[str, dict[str, float]]:
    """Figures of each way to tune one model of images and texts."""
    with tempfile.TemporaryDirectory() as folder:
        alone = ["federation.clients=1", "federation.per_round=1", f"federation.rounds={rounds}", "local.epochs=8"]
        begun = run("multimodal", [f"seed={seed}", f"run_dir={folder}/start", "data.limit=400", *alone, QUIETLY])
        changes = [
            f"model.path={begun.path / 'model'}",
            f"federation.rounds={rounds}",
            "local.epochs=2",
        ]
        return {arm: tuned("multimodal", choice, seed, [*changes, QUIETLY]) for arm, choice in PAIRS.items()}


def tuned(preset: str, choice: dict[str, Any], seed: int, changes: list[str]) -> dict[str, float]:
    """The metric before and after a run, and kilobytes that a client sends in a round."""
    with tempfile.TemporaryDirectory() as folder:
        of_arm = [f"tune={choice['tune']}", f"local.learning_rate={choice['learning_rate']}"]
        summary = run(preset, [f"seed={seed}", f"run_dir={folder}/run", *of_arm, *changes]).summary
    metric = summary["metric"]
    return {
        "before": summary["initial"][metric],
        "after": summary["final"][metric],
        "kB": 4 * summary["parameters"]["trainable"] / 1000,
    }


def line(arm: str, found: list[dict[str, float]]) -> str:
    """One line of a table."""
    columns = (mean_and_deviation([each[column] for each in found], 100, 1) for column in ("before", "after"))
    return f"{arm} | {' | '.join(columns)} | {found[0]['kB']:.1f}"


def main() -> None:
    """Measures what is missing, and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="one round of one seed")
    options = parser.parse_args()
    name, rounds, seeds = ("prompts_smoke", 1, range(1)) if options.smoke else ("prompts", 4, range(options.seeds))
    every = [measured(name, f"pairs {seed}", lambda seed=seed: pairs(seed, rounds)) for seed in seeds]
    print("images and texts | recall@10 before, % | after, % | kB up a client and round")
    for arm in PAIRS:
        print(line(arm, [found[arm] for found in every]), flush=True)
    print("\ntexts | accuracy before, % | after, % | kB up a client and round")
    changes = [f"federation.rounds={rounds}", "local.epochs=1", "data.test=0.3", QUIETLY]
    for arm, choice in TEXTS.items():
        found = [
            measured(name, f"{arm} {seed}", lambda c=choice, s=seed: tuned("prompt-text", c, s, changes))
            for seed in seeds
        ]
        print(line(arm, found), flush=True)
    print(f"\n{measured_on(name)}")


if __name__ == "__main__":
    main()
