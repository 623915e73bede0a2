"""Losses against transformers' own, metrics against scikit-learn's definitions and hand-computed cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from fedfm.models.backbones import load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.records.units import LOWER_IS_BETTER
from fedfm.tasks import TASKS
from fedfm.tasks.language_modeling import IGNORED

TEXT_MODELS = {
    "text-classification": ["tiny-bert", "tiny-roberta", "tiny-gpt2", "tiny-llama", "tiny-opt"],
    "multi-label": ["tiny-bert", "tiny-llama"],
    "regression": ["tiny-bert", "tiny-llama"],
    "token-classification": ["tiny-bert", "tiny-gpt2", "tiny-llama"],
    "masked-lm": ["tiny-bert", "tiny-roberta"],
    "causal-lm": ["tiny-gpt2", "tiny-llama", "tiny-opt"],
    "instruct": ["tiny-gpt2", "tiny-llama", "tiny-opt"],
}
ANSWERS: dict[str, list[Any]] = {
    "multi-label": [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]],
    "regression": [[0.5, -1.0, 2.0], [0.0, 0.25, 3.0], [1.0, 1.0, 1.0], [-4.0, 0.0, 0.0]],
    "token-classification": [[0], [2, IGNORED, 1], [IGNORED, 1, 1, 0], [2, 2]],
}
"""Labels of the examples of other kinds than classes."""
MEASURED = {
    "retrieval": {"question": np.eye(2), "passage": np.eye(2), "digest": np.arange(2, dtype=np.uint64)},
    "image-text": {
        "image": np.eye(2),
        "text": np.eye(2),
        "image_number": np.arange(2),
        "text_number": np.arange(2),
    },
    "multi-label": {"predicted": np.eye(2, dtype=bool), "label": np.ones((2, 2), dtype=bool)},
    "regression": {"predicted": np.array([[1.0], [2.0]]), "label": np.array([[1.0], [3.0]])},
    "token-classification": {
        "predicted": np.ones(2, int),
        "label": np.ones(2, int),
        "first": np.ones(2, bool),
    },
}
CASES = [(kind, model) for kind, models in TEXT_MODELS.items() for model in models]


def backbone(kind: str, model: str) -> Any:
    task = TASKS[kind]
    labels = ["a", "b", "c"] if task.labelled else None
    settings = ModelSettings(path=f"builtin:{model}")
    return load_backbone(settings, task.auto_class, seed=0, labels=labels, problem_type=task.problem_type)


def rows(kind: str, processor: Any) -> list[dict[str, Any]]:
    texts = ["short", "a somewhat longer example", "the longest of the three examples here", "mid size"]
    encoded = [dict(processor(text)) for text in texts]
    if TASKS[kind].labelled:
        for row, label in zip(encoded, ANSWERS.get(kind, [0, 2, 1, 2]), strict=True):
            row["labels"] = label
            if kind == "token-classification":
                row["labels"] = [IGNORED, *label] + [IGNORED] * (len(row["input_ids"]) - len(label) - 1)
    return encoded


def inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


@pytest.mark.parametrize(("kind", "model"), CASES)
def test_loss_is_that_of_transformers(kind: str, model: str) -> None:
    task, loaded = TASKS[kind](), backbone(kind, model)
    batch = dict(task.collate(loaded.processor, seed=0)(rows(kind, loaded.processor)))
    with torch.no_grad():
        theirs = loaded.model(**batch).loss
        totals, counts = task.losses(loaded.model(**inputs(batch)).logits, batch)
    assert totals.shape == counts.shape == (4,)
    torch.testing.assert_close(totals.sum() / counts.sum(), theirs)


def test_image_loss_is_that_of_transformers() -> None:
    task, loaded = TASKS["image-classification"](), backbone("image-classification", "tiny-vit")
    generator = np.random.default_rng(0)
    images = [{"pixel_values": generator.integers(0, 256, (3, 8, 8), dtype=np.uint8), "labels": k} for k in (0, 1, 2)]
    batch = dict(task.collate(loaded.processor, seed=0)(images))
    assert batch["pixel_values"].dtype == torch.float32
    expected = loaded.processor(
        images=[image["pixel_values"].transpose(1, 2, 0) for image in images], return_tensors="pt"
    )
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"])
    totals, counts = task.losses(loaded.model(**inputs(batch)).logits, batch)
    torch.testing.assert_close(totals.sum() / counts.sum(), loaded.model(**batch).loss)


def test_masks_are_keyed() -> None:
    task, loaded = TASKS["masked-lm"](), backbone("masked-lm", "tiny-bert")
    examples = rows("masked-lm", loaded.processor)
    first, again, other = (task.collate(loaded.processor, seed=seed)(examples) for seed in (1, 1, 2))
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert torch.equal(first["labels"], again["labels"])
    assert not torch.equal(first["labels"], other["labels"])


def test_causal_labels_follow_the_mask_not_the_pad_token() -> None:
    task, loaded = TASKS["causal-lm"](), backbone("causal-lm", "tiny-gpt2")
    pad = loaded.processor.pad_token_id
    real, longer = {"input_ids": [5, pad, 6]}, {"input_ids": [5, 6, 7, 8]}
    batch = task.collate(loaded.processor, seed=0)([real, longer])
    assert batch["labels"].tolist() == [[5, pad, 6, IGNORED], [5, 6, 7, 8]]


def test_soft_prompts_predict_nothing() -> None:
    task = TASKS["causal-lm"]()
    batch = {"labels": torch.tensor([[3, 1, 2]])}
    logits = torch.randn(1, 3, 5)
    prompted = torch.cat([torch.randn(1, 4, 5), logits], dim=1)
    assert torch.equal(task.losses(prompted, batch)[0], task.losses(logits, batch)[0])


def test_classification_metrics_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    label, predicted = generator.integers(0, 4, 200), generator.integers(0, 4, 200)
    scores = TASKS["text-classification"]().score({"predicted": predicted, "label": label}, 0.0)
    assert scores == {
        "accuracy": accuracy_score(label, predicted),
        "macro_f1": f1_score(label, predicted, average="macro"),
        "matthews": matthews_corrcoef(label, predicted),
    }


def test_metrics_of_a_single_class_are_defined() -> None:
    ones = np.ones(3, dtype=int)
    assert TASKS["text-classification"]().score({"predicted": ones, "label": ones}, 0.0) == {
        "accuracy": 1.0,
        "macro_f1": 1.0,
        "matthews": 0.0,
    }


def test_perplexity_and_token_accuracy_by_hand() -> None:
    task = TASKS["causal-lm"]()
    uniform = torch.zeros(1, 3, 8)
    batch = {"labels": torch.tensor([[1, 0, IGNORED]])}
    totals, counts = task.losses(uniform, batch)
    loss = (totals.sum() / counts.sum()).item()
    scores = task.score(task.measure(uniform, batch), loss)
    assert scores["perplexity"] == pytest.approx(8.0)
    assert scores["token_accuracy"] == 1.0  # argmax of equal logits is class 0, the one label that is asked
    assert counts.tolist() == [1]


def test_perplexity_of_a_diverged_model_is_infinite_not_an_error() -> None:
    assert TASKS["causal-lm"]().score({"right": np.zeros(1, dtype=bool)}, 1e6)["perplexity"] == math.inf


def test_majority_answers_the_commonest_training_class() -> None:
    task = TASKS["text-classification"]()
    scores = task.majority(np.array([0, 1, 1]), np.array([1, 1, 0, 2]))
    assert scores is not None
    assert scores["accuracy"] == 0.5
    assert scores["matthews"] == 0.0
    assert TASKS["causal-lm"]().majority(np.array([0]), np.array([0])) is None


@pytest.mark.parametrize("kind", [kind for kind in TASKS if kind != "multi"])  # whose metrics are those of its tasks
def test_every_declared_metric_is_scored(kind: str) -> None:
    task = TASKS[kind]()
    measured = MEASURED.get(kind) or (
        {"predicted": np.array([0, 1]), "label": np.array([0, 0])}
        if task.labelled
        else {"right": np.array([True, False]), "change": np.array([1.0, -2.0])}
    )
    assert list(task.score(measured, 1.0, ("O", "B-X"))) == list(task.metrics)


def test_what_falls_when_a_model_gets_better() -> None:
    falling = {name for kind, task in TASKS.items() if kind != "multi" for name, up in task.metrics.items() if not up}
    assert {"loss", *falling} == LOWER_IS_BETTER
