"""A small federation in memory: four clients, a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedfm.recipe import load_recipe
from fedfm.server.experiment import Experiment, build_experiment

WORDS = {"good": 1, "great": 1, "fine": 1, "bad": 0, "awful": 0, "poor": 0}


def write_rows(path: Path, count: int, *, start: int = 0) -> None:
    """A sentiment set that a byte-level model can learn."""
    words = list(WORDS)
    rows = [{"text": f"{words[i % 6]} thing {i}", "label": WORDS[words[i % 6]]} for i in range(start, start + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(tmp_path / "test.jsonl", 30, start=100)
    return build_experiment(
        load_recipe(
            {
                "name": "small",
                "model": {"path": "builtin:tiny-bert"},
                "task": {"kind": "text-classification"},
                "data": {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl"), "max_length": 32},
                "federation": {"clients": 4, "per_round": 2, "rounds": 2},
                "local": {"batch_size": 4, "learning_rate": 0.01},
            }
        )
    )
