"""Text and image classification: cross-entropy; accuracy, macro-F1 and Matthews' correlation coefficient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, DataCollatorWithPadding

from fedfm.capabilities import TEXT_INPUTS, VIRTUAL_TOKENS
from fedfm.data.examples import Examples
from fedfm.data.image_files import with_images
from fedfm.data.images import PixelStatistics, encode_images
from fedfm.data.labels import LabelMap
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.data.text import encode_text
from fedfm.errors import RecipeError
from fedfm.tasks.base import ADJUSTMENT, Batch, ClassScore, Collate, Measured, PerClass, Task
from fedfm.tasks.shown import ShownExample, shown_tokens


class Classification(Task):
    """What text and image classification share."""

    heads: list[int] = []
    """Number of the head of each class, in the order of the classes: an example is told apart from classes of its own
    head alone. The run fills it in where `federation.stream.heads` is `per-task`; empty: one head."""

    labelled = True
    metrics = MappingProxyType({"accuracy": True, "macro_f1": True, "matthews": True})

    def predictions(self, batch: Batch) -> Tensor:
        """One prediction per example."""
        return torch.ones_like(batch["labels"])

    def settled(self, labels: LabelMap | None, examples: Examples, clients: Mapping[str, np.ndarray]) -> Self:
        """As it is; refuses `heads` that are not one for each class.

        Raises:
            RecipeError: at ``task.heads``.
        """
        if self.heads and labels is not None and len(self.heads) != len(labels.names):
            raise RecipeError(
                f"{len(self.heads)} numbers cannot say the head of each of {len(labels.names)} classes; leave it out, "
                "and set federation.stream.heads",
                where="task.heads",
            )
        return self

    def with_heads(self, heads: Sequence[int]) -> Self:
        """The rows of the model's last layer, divided into heads."""
        return self.model_copy(update={"heads": list(heads)})

    def choices(self, outputs: Tensor, batch: Batch) -> Tensor:
        """−∞ for classes of other heads than that of the example's label; logits ``[B, classes]``."""
        if not self.heads:
            return outputs
        heads = torch.tensor(self.heads, device=outputs.device)
        return outputs.masked_fill(heads != heads[batch["labels"]].unsqueeze(-1), -torch.inf)

    def losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each example; logits ``[B, classes]``, labels ``[B]``, and to training, ``ADJUSTMENT``."""
        if ADJUSTMENT in batch:
            logits = logits + batch[ADJUSTMENT]
        logits = self.choices(logits, batch)
        return cross_entropy(logits, batch["labels"], reduction="none"), self.predictions(batch)

    def measure(self, logits: Tensor, batch: Batch) -> Measured:
        """Predicted and true classes."""
        return {
            "predicted": self.choices(logits, batch).argmax(-1).cpu().numpy(),
            "label": batch["labels"].cpu().numpy(),
        }

    def score(self, measured: Measured, loss: float, names: Sequence[str] = ()) -> dict[str, float]:
        """Accuracy, macro-F1 over the classes that occur, and Matthews' correlation coefficient."""
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef  # slow to import

        predicted, label = measured["predicted"], measured["label"]
        one_class = np.unique([predicted, label]).size == 1  # scikit-learn also returns 0, with a warning
        return {
            "accuracy": float(accuracy_score(label, predicted)),
            "macro_f1": float(f1_score(label, predicted, average="macro", zero_division=0.0)),
            "matthews": 0.0 if one_class else float(matthews_corrcoef(label, predicted)),
        }

    def answers(self, logits: Tensor, batch: Batch, names: Sequence[str]) -> list[dict[str, Any]]:
        """The likeliest class, its probability, and the probabilities of all classes."""
        return class_answers(logits, names)

    def per_class(self, measured: Measured, names: Sequence[str]) -> PerClass:
        """Precision, recall and F1 of each class, and the confusion matrix."""
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # slow to import

        predicted, label = measured["predicted"], measured["label"]
        ids = np.arange(len(names))
        figures = precision_recall_fscore_support(label, predicted, labels=ids, zero_division=np.nan)
        rows = zip(names, *(part.tolist() for part in figures), strict=True)
        return PerClass(
            classes=[
                ClassScore(label=name, precision=known(p), recall=known(r), f1=known(f1), examples=int(examples))
                for name, p, r, f1, examples in rows
            ],
            confusion=confusion_matrix(label, predicted, labels=ids).tolist(),
        )

    def majority(self, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
        """All metrics on ``test`` when the most frequent class of ``train`` is always predicted."""
        return self.score({"predicted": np.full_like(test, np.bincount(train).argmax()), "label": test}, 0.0)


class TextClassification(Classification):
    """Predicts one class of a text or a pair of texts."""

    kind: Literal["text-classification"] = "text-classification"
    """One class of a text or a pair of texts."""
    modality = "text"
    text_columns = (1, 2)
    auto_class = AutoModelForSequenceClassification
    peft_type = "SEQ_CLS"

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """Token ids, truncated to ``data.max_length`` tokens."""
        return encode_text(
            source, data.text, processor, data.max_length, label=data.label, label_map=labels, client=data.client
        )

    def show(self, row: Mapping[str, Any], processor: Any, names: Sequence[str] | None) -> ShownExample:
        """Tokens, and the class that is learnt."""
        ids = list(row["input_ids"])
        return ShownExample(tokens=shown_tokens(processor, ids, [False] * len(ids)), label=_name(row, names))

    def collate(self, processor: Any, seed: int) -> Collate:
        """Pads to the longest example of the batch."""
        pad = DataCollatorWithPadding(processor)
        return lambda rows: pad([dict(row) for row in rows])


class ImageClassification(Classification):
    """Predicts one class of an image."""

    takes = {
        VIRTUAL_TOKENS: "an image has no text that they could precede; use lora",
        TEXT_INPUTS: "its examples are images",
    }
    kind: Literal["image-classification"] = "image-classification"
    """One class of an image."""
    modality = "image"
    auto_class = AutoModelForImageClassification
    peft_type = None

    def prepare(self, source: Source, data: DataSettings) -> Source:
        """A source whose digest covers the images that it refers to.

        Raises:
            RecipeError, DataError: as `with_images`.
        """
        return with_images(source, data.image)

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """Pixels at the model's image size, as uint8."""
        return encode_images(
            source,
            data.image,
            processor,
            channels=channels(processor),
            label=data.label,
            label_map=labels,
            client=data.client,
        )

    def show(self, row: Mapping[str, Any], processor: Any, names: Sequence[str] | None) -> ShownExample:
        """Shape of the image, and the class that is learnt."""
        return ShownExample(image=list(np.shape(row["pixel_values"])), label=_name(row, names))

    def collate(self, processor: Any, seed: int) -> Collate:
        """Stacks images and normalises them with the processor's mean and standard deviation."""
        statistics = PixelStatistics.of(processor, channels(processor))

        def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
            images = torch.from_numpy(np.stack([row["pixel_values"] for row in rows]))
            batch = {"pixel_values": statistics.pixels(images)}
            if "labels" in rows[0]:
                batch["labels"] = torch.tensor([row["labels"] for row in rows])
            return batch

        return collate


def class_answers(logits: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """The likeliest class of each example, its probability, and those of all classes; logits ``[B, classes]``."""
    probabilities = logits.float().cpu().double().softmax(-1).numpy()
    return [
        {
            "predicted": names[int(row.argmax())],
            "probability": float(row.max()),
            "probabilities": dict(zip(names, row.tolist(), strict=True)),
        }
        for row in probabilities
    ]


def channels(processor: Any) -> int:
    """The number of colour channels that an image processor prepares: the number of its means."""
    return len(processor.image_mean) if processor.do_normalize else 3


def _name(row: Mapping[str, Any], names: Sequence[str] | None) -> str | None:
    return names[row["labels"]] if names is not None and "labels" in row else None


def known(value: float) -> float | None:
    """A score, or None where it is undefined."""
    return None if math.isnan(value) else value
