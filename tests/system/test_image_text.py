"""Whole runs of image and text: clients of one kind, the written adapter, zero-shot classes, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedfm import run
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe
from fedfm.server import predict


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "pairs",
        "output": str(folder),
        "model": {"path": "builtin:tiny-vit", "text": "builtin:tiny-bert"},
        "task": {"kind": "image-text"},
        "data": {
            "train": "builtin:digits-captions",
            "test": "builtin:digits-captions",
            "text": "captions",
            "max_length": 32,
            "limit": 60,
        },
        "federation": {"clients": 3, "per_round": 3, "rounds": 1, "modalities": {"1": "image", "2": "text"}},
        "local": {"batch_size": 8, "max_steps": 1, "learning_rate": 0.01},
        "tune": {"kind": "lora", "r": 2},
        "runtime": {"kind": "local", "processes": 1, "threads": 1},
        **changes,
    }


def test_clients_of_one_kind_send_one_tower_and_the_adapter_names_classes(tmp_path: Path) -> None:
    finished = run(recipe(tmp_path))
    summary = finished.summary
    assert summary["status"] == "completed"
    assert summary["clients"]["failed"] == 0
    found = predict(finished.path, "builtin:digits-captions", classes=["zero", "one"], templates=["a {}"])
    assert set(found["predicted"]) <= {"zero", "one"}
    assert {"label", "probabilities.zero", "probabilities.one"} <= set(found.columns)
    with pytest.raises(RecipeError, match="has no classes: name some"):
        predict(finished.path, "builtin:digits-captions")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"tune": {"kind": "prompt"}}, "tune.kind"),
        ({"task": {"kind": "image-classification"}}, "federation.modalities"),
        ({"task": {"kind": "image-classification"}, "federation": {"clients": 3}}, "model.text"),
        ({"evaluate": {"at": "both"}}, "evaluate.at"),
        ({"proxy": {"kind": "fedpft"}, "federation": {"clients": 3}}, "task.kind"),
    ],
)
def test_what_cannot_be_combined_is_refused(changes: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.model_validate(recipe(tmp_path, **changes))
    assert where in {problem.where for problem in caught.value.problems}
