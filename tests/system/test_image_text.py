"""Whole runs of image and text: clients of one kind, the written adapter, zero-shot classes, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from fedfm import run
from fedfm.data.builtins.captions import digits_captions
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe, load_recipe
from fedfm.records.folder import RunFolder
from fedfm.server import predict
from fedfm.server.runs.artifacts import load_tuned
from fedfm.tasks.towers import image_embeddings, text_embeddings
from tests.card import by_the_card


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
    ("tune", "model"),
    [
        ({"kind": "prompt", "num_virtual_tokens": 4}, {"path": "builtin:tiny-clip"}),
        ({"kind": "attention-adapter"}, {"path": "builtin:tiny-vit", "text": "builtin:tiny-bert"}),
    ],
    ids=["prompt", "attention"],
)
def test_an_adapter_that_peft_does_not_know_is_loaded_by_its_card(
    tune: dict[str, Any], model: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = {"clients": 2, "per_round": 2, "rounds": 1}
    finished = run(recipe(tmp_path, tune=tune, model=model, federation=federation))
    adapter = finished.path / "adapter"
    assert finished.summary["clients"]["failed"] == 0
    reloaded = finished.summary["reloaded"]
    assert (reloaded["with"], reloaded["agrees"]) == ("transformers", True)
    described = json.loads((adapter / "adapter.json").read_text())
    assert described["form"] == tune["kind"]
    table = digits_captions().select(range(3))
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, image in zip(files, table["image"], strict=True):
        image.save(file)
    found = predict(finished.path, "builtin:digits-captions", classes=["zero", "one"], templates=["a {}" + 300 * "!"])
    assert len(found) > 0
    names = by_the_card(adapter, monkeypatch)
    tuned = load_tuned(RunFolder.open(finished.path), load_recipe(finished.path / "recipe.yaml")).model.tunable.model
    pixels = names["processor"](images=[Image.open(file).convert("RGB") for file in files], return_tensors="pt")
    texts = names["tokenizer"](["a thin one", "two"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        rows = image_embeddings(tuned, pixels["pixel_values"]), text_embeddings(tuned, dict(texts))
    expected = normalize(rows[0], dim=-1) @ normalize(rows[1], dim=-1).T
    torch.testing.assert_close(names["similarities"](files, ["a thin one", "two"]), expected)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"tune": {"kind": "prompt"}}, "federation.modalities"),
        ({"tune": {"kind": "attention-adapter"}}, "federation.modalities"),
        ({"tune": {"kind": "prefix"}, "federation": {"clients": 3}}, "tune.kind"),
        ({"tune": {"kind": "p-tuning"}, "federation": {"clients": 3}}, "tune.kind"),
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
