"""A federation of a few clients with a tiny model, which trains in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedfm.models.builtin import write_random_model
from fedfm.randomness import torch_seed

WORDS = {"good": 1, "great": 1, "fine": 1, "bad": 0, "awful": 0, "poor": 0}


def write_rows(path: Path, count: int, *, start: int = 0) -> None:
    """Short reviews that a byte-level model can learn; sites `a` to `e` hold equal shares."""
    words = list(WORDS)
    rows = [
        {"text": f"{words[i % 6]} thing {i}", "label": WORDS[words[i % 6]], "site": "abcde"[i % 5]}
        for i in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


LABEL_OF: dict[str, Any] = {
    "multi-label": lambda row: ["thing", "good" if row["label"] else "bad"],
    "token-classification": lambda row: ["B-GOOD" if row["label"] else "O", "B-THING", "I-THING"],
    "regression": lambda row: 10.0 + 2 * row["label"],
}
"""Kind of task → the label of a row of `rows_for`; the class by default."""


def rows_for(kind: str, count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Rows as `write_rows` writes them, for a kind of task on texts."""
    words = list(WORDS)
    rows = []
    for number in range(start, start + count):
        word = words[number % 6]
        row: dict[str, Any] = {"number": number, "label": WORDS[word], "site": "abcde"[number % 5]}
        row["label"] = LABEL_OF.get(kind, lambda row: row["label"])(row)
        text = [word, "thing", str(number)]
        rows.append({"text": text if kind == "token-classification" else " ".join(text)} | row)
    return rows


def write_rows_for(kind: str, path: Path, count: int, *, start: int = 0) -> None:
    """Writes `rows_for` as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_for(kind, count, start=start)))


def write_deeper_model(name: str, folder: Path, layers: int) -> None:
    """A builtin model with more layers, as a checkpoint."""
    from transformers import AutoConfig, AutoModel

    write_random_model(name, folder)
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = layers
    with torch_seed(0, name):
        AutoModel.from_config(config).save_pretrained(folder)


def small_recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe over files in ``folder``, which are written; whole groups can be replaced."""
    write_rows(folder / "train.jsonl", 60)
    write_rows(folder / "test.jsonl", 30, start=100)
    return {
        "name": "small",
        "output": str(folder / "runs"),
        "model": {"path": "builtin:tiny-bert"},
        "task": {"kind": "text-classification"},
        "data": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "max_length": 32},
        "federation": {"clients": 6, "per_round": 3, "rounds": 4},
        "local": {"batch_size": 5, "learning_rate": 0.01},
        **changes,
    }
