"""Scores depend on the examples alone, not on the batch size of the evaluation or on padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch import Tensor

from fedfm.clients import Evaluator
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.byte_tokenizer import END_ID, PAD_ID
from fedfm.models.tunables import BitFit, Full, Head, Lora, Prefix, Prompt, TuneSettings
from fedfm.tasks import TASKS, Batch, Task
from fedfm.tasks.base import Measured
from tests.models.cases import ALIKE, CASES, LABELS, load
from tests.models.test_padding import LETTER, write

KINDS = {"text": "text-classification", "image": "image-classification", "causal": "causal-lm", "masked": "masked-lm"}
BATCH_SIZES = (1, 7, 64)
COUNT = 24


def texts(columns: int) -> list[list[str]]:
    """Texts of 2 to 60 letters each."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 61, (columns, COUNT))
    return [["".join(map(chr, generator.integers(97, 123, length))) for length in column] for column in lengths]


def examples_of(task: Task, backbone: Backbone, columns: int = 1) -> Examples:
    classes = [LABELS[number % 3] for number in range(COUNT)]
    data: dict[str, Any] = {"label": classes}
    if task.modality == "image":
        pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
        data["image"] = [Image.fromarray(image) for image in pixels]
        features = Features({"label": Value("string"), "image": ImageFeature()})
        table = Dataset.from_dict(data, features=features)
    else:
        names = [f"text{number}" for number in range(columns)]
        table = Dataset.from_dict(data | dict(zip(names, texts(columns), strict=True)))
    settings = DataSettings(train="", text=[f"text{number}" for number in range(columns)])
    labels = LabelMap(LABELS) if task.labelled else None
    return task.encode(
        Source(table, f"batch sizes {task.modality} {columns}", "made"), settings, backbone.processor, labels
    )


class Recorded:
    """A task that keeps the logits of every prediction, in the order in which examples are visited."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.logits: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def measure(self, logits: Tensor, batch: Batch) -> Measured:
        if self.task.labelled:
            self.logits.append(logits)
        else:
            predicting, targets = self.task.predicting(logits, batch), self.task.targets(batch)  # type: ignore[attr-defined]
            self.logits.append(predicting[targets >= 0])
        return self.task.measure(logits, batch)


def evaluated(
    backbone: Backbone, kind: str, tune: TuneSettings, dtype: torch.dtype, columns: int = 1
) -> list[tuple[Tensor, dict[str, float]]]:
    """Logits and scores at each batch size."""
    task = TASKS[kind]()
    examples = examples_of(task, backbone, columns)
    tunable = tune.attach(backbone, task_type=task.peft_type, seed=0)
    generator = torch.Generator().manual_seed(0)
    tunable.write({name: torch.randn(value.shape, generator=generator) / 8 for name, value in tunable.read().items()})
    tunable.model.to(dtype)
    results = []
    for size in BATCH_SIZES:
        recorded = Recorded(task)
        evaluator = Evaluator(
            tunable=tunable,
            family=backbone.family,
            task=recorded,  # type: ignore[arg-type]
            processor=backbone.processor,
            metrics=tuple(task.metrics),
            batch_size=size,
            seed=0,
            device=torch.device("cpu"),
        )
        scores = evaluator(examples)
        results.append((torch.cat(recorded.logits), scores))
    return results


def compare(backbone: Backbone, kind: str, tune: TuneSettings, columns: int = 1) -> None:
    first, *others = evaluated(backbone, kind, tune, torch.float64, columns)
    assert len(first[0]) >= (COUNT if TASKS[kind].labelled else 2 * COUNT)
    for other in others:
        torch.testing.assert_close(other[0], first[0], rtol=1e-9, atol=1e-9)
        assert other[1] == pytest.approx(first[1], rel=1e-9)


@pytest.mark.parametrize(("name", "task"), [*CASES, *ALIKE])
def test_every_family_and_task(name: str, task: str) -> None:
    compare(load(name, task), KINDS[task], Lora())
    alone, *others = (scores for _, scores in evaluated(load(name, task), KINDS[task], Lora(), torch.float32))
    for scores in others:
        assert scores["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        for metric in ("accuracy", "token_accuracy"):
            assert scores.get(metric) == alone.get(metric)


@pytest.mark.parametrize(
    ("name", "task", "tune"),
    [
        ("tiny-bert", "text", Prompt(num_virtual_tokens=3)),
        ("tiny-bert", "text", Prefix(num_virtual_tokens=3)),
        ("tiny-llama", "text", Prefix(num_virtual_tokens=3)),
        ("tiny-llama", "causal", Prompt(num_virtual_tokens=3)),
        ("tiny-opt", "causal", Prefix(num_virtual_tokens=3)),
        ("tiny-deberta", "text", Full()),
        ("tiny-gpt2", "text", BitFit()),
        ("tiny-t5", "text", Head()),
    ],
)
def test_every_kind_of_tunable(name: str, task: str, tune: TuneSettings) -> None:
    compare(load(name, task), KINDS[task], tune)


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-roberta", "tiny-llama", "tiny-t5"])
def test_pairs(name: str) -> None:
    compare(load(name, "text"), "text-classification", Lora(), columns=2)


@pytest.mark.parametrize(
    ("builtin", "task", "config", "tokenizer"),
    [
        ("tiny-gpt2", "text", LETTER, "<pad>"),
        ("tiny-llama", "text", LETTER, None),
        ("tiny-opt", "text", None, None),
        ("tiny-roberta", "text", PAD_ID, "<mask>"),
        ("tiny-t5", "text", END_ID, "<pad>"),
        ("tiny-llama", "causal", LETTER, None),
    ],
)
def test_models_whose_config_and_tokenizer_disagree(
    tmp_path: Path, builtin: str, task: str, config: int | None, tokenizer: str | None
) -> None:
    settings = write(tmp_path, builtin, config=config, tokenizer=tokenizer)
    loaded = load_backbone(settings, TASKS[KINDS[task]].auto_class, seed=0, labels=LABELS if task == "text" else None)
    compare(loaded, KINDS[task], Lora())
