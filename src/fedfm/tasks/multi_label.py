"""Multi-label classification of texts: binary cross-entropy of each label; F1 and exact match."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoModelForSequenceClassification

from fedfm.capabilities import LABELS
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.lists import list_column
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.tasks.base import Batch, ClassScore, Measured, PerClass
from fedfm.tasks.classification import known
from fedfm.tasks.targets import TextTargets


class MultiLabel(TextTargets):
    """Predicts which of several labels a text or a pair of texts has: any number of them, or none."""

    takes = {LABELS: "its examples have any number of labels"}
    kind: Literal["multi-label"] = "multi-label"
    """Any number of labels of a text or a pair of texts."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability above which a label is predicted."""
    label_role = "list"
    auto_class = AutoModelForSequenceClassification
    problem_type = "multi_label_classification"
    metrics = MappingProxyType({"micro_f1": True, "macro_f1": True, "exact_match": True})

    def label_map(self, source: Source, data: DataSettings) -> LabelMap:
        """The labels: as the recipe names them, else those of the column.

        Raises:
            RecipeError, DataError: as `LabelMap.from_lists`.
        """
        return self.named(data.labels) if data.labels else LabelMap.from_lists(source, data.label)

    def targets(self, source: Source, data: DataSettings, labels: LabelMap) -> np.ndarray:
        """1 for the labels of an example, else 0, ``[N, labels]``.

        Raises:
            RecipeError, DataError: as `LabelMap.encode_lists`.
        """
        targets = np.zeros((len(source), len(labels)), dtype=np.float32)
        for row, own in enumerate(labels.encode_lists(source, data.label)):
            targets[row, own] = 1
        return targets

    def written(self, targets: Sequence[float], names: Sequence[str]) -> str:
        """The names of the labels."""
        return ", ".join(name for name, target in zip(names, targets, strict=True) if target)

    def label_counts(self, examples: Examples, indices: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
        """How many of some examples have each label; an example counts for each of its labels."""
        return None if examples.targets is None else examples.targets[indices].sum(0).astype(np.int64)

    def losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The binary cross-entropy of each example, summed over labels, and their number."""
        each = binary_cross_entropy_with_logits(logits, batch["labels"], reduction="none")
        return each.sum(1), self.predictions(batch)

    def measure(self, logits: Tensor, batch: Batch) -> Measured:
        """Whether each label is predicted, and whether it is true, bool ``[B, labels]``."""
        return {"predicted": self._predicted(logits), "label": batch["labels"].cpu().numpy() > 0.5}

    def score(self, measured: Measured, loss: float, names: Sequence[str] = ()) -> dict[str, float]:
        """F1 over all labels together, the mean of the labels' F1, and the share of examples without any mistake."""
        from sklearn.metrics import f1_score  # slow to import

        predicted, label = measured["predicted"], measured["label"]
        return {
            "micro_f1": float(f1_score(label, predicted, average="micro", zero_division=0.0)),
            "macro_f1": float(f1_score(label, predicted, average="macro", zero_division=0.0)),
            "exact_match": float((predicted == label).all(1).mean()),
        }

    def per_class(self, measured: Measured, names: Sequence[str]) -> PerClass:
        """Precision, recall and F1 of each label, without a confusion matrix."""
        from sklearn.metrics import precision_recall_fscore_support  # slow to import

        found = precision_recall_fscore_support(measured["label"], measured["predicted"], zero_division=np.nan)
        rows = zip(names, *(part.tolist() for part in found), strict=True)
        scores = [
            ClassScore(label=name, precision=known(p), recall=known(r), f1=known(f1), examples=int(examples))
            for name, p, r, f1, examples in rows
        ]
        return PerClass(classes=scores, confusion=[])

    def answers(self, logits: Tensor, batch: Batch, names: Sequence[str]) -> list[dict[str, Any]]:
        """The labels that are predicted, and the probability of each."""
        probabilities = logits.float().cpu().double().sigmoid().numpy()
        return [
            {
                "predicted": [names[label] for label in np.flatnonzero(own).tolist()],
                "probabilities": dict(zip(names, row.tolist(), strict=True)),
            }
            for row, own in zip(probabilities, self._predicted(logits), strict=True)
        ]

    def records(self, answers: Sequence[dict[str, Any]], source: Source, data: DataSettings) -> list[dict[str, Any]]:
        """As for every task; labels are lists."""
        if data.label not in source.table.column_names:
            return list(answers)
        labels = list_column(source, data.label, "data.label")
        return [{"label": own, **answer} for own, answer in zip(labels, answers, strict=True)]

    def _predicted(self, logits: Tensor) -> np.ndarray:
        found: np.ndarray = (logits.double().sigmoid() > self.threshold).cpu().numpy()
        return found
