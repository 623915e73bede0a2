"""Regression: numbers of a text; mean squared error, and errors and correlations in the unit of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import AutoModelForSequenceClassification

from fedfm.capabilities import LABELS
from fedfm.data.labels import LabelMap
from fedfm.data.numbers import number_column
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.errors import RecipeError
from fedfm.tasks.base import Batch, Measured
from fedfm.tasks.targets import TextTargets

Scale = Annotated[float, Field(gt=0)]


class Regression(TextTargets):
    """Predicts one or more numbers of a text or a pair of texts.

    The model predicts (y − center) / scale. Both are keys of the recipe, not moments of the data: the server does not
    see the clients' targets, and sums of them would be one more release.
    """

    takes = {LABELS: "its examples have numbers to predict"}
    kind: Literal["regression"] = "regression"
    """One or more numbers of a text or a pair of texts."""
    center: float | list[float] = 0.0
    """About the mean of the numbers to predict, in their unit; a list: of each of several. The model starts near it."""
    scale: Scale | list[Scale] = 1.0
    """About the standard deviation of the numbers to predict, in their unit; a list: of each of several."""
    label_role = "number"
    auto_class = AutoModelForSequenceClassification
    problem_type = "regression"
    metrics = MappingProxyType({"rmse": False, "mae": False, "r2": True, "pearson": True, "spearman": True})

    def label_map(self, source: Source, data: DataSettings) -> LabelMap:
        """The names of the numbers: as the recipe names them, else the column's name, numbered for several.

        Raises:
            RecipeError, DataError: as `fedfm.data.numbers.number_column`.
        """
        if data.labels:
            return self.named(data.labels)
        width = number_column(source, data.label).shape[1]
        return LabelMap((data.label,) if width == 1 else tuple(f"{data.label}.{place}" for place in range(width)))

    def targets(self, source: Source, data: DataSettings, labels: LabelMap) -> np.ndarray:
        """(y − center) / scale of each number y.

        Raises:
            RecipeError: at ``data.label``: an example has more or fewer numbers than there are names; at
                ``task.center`` or ``task.scale``: the list has another length.
            DataError: as `fedfm.data.numbers.number_column`.
        """
        numbers = number_column(source, data.label)
        if numbers.shape[1] != len(labels):
            raise RecipeError(
                f"column `{data.label}` of {source.name} has {numbers.shape[1]} numbers for each example, but "
                f"{len(labels)} are named: {', '.join(labels.names)}",
                where="data.label",
            )
        for key, value in (("center", self.center), ("scale", self.scale)):
            if isinstance(value, list) and len(value) != len(labels):
                raise RecipeError(
                    f"has {len(value)} values, but {len(labels)} numbers are predicted: {', '.join(labels.names)}",
                    where=f"task.{key}",
                )
        targets: np.ndarray = (numbers - np.asarray(self.center)) / np.asarray(self.scale)
        return targets.astype(np.float32)

    def written(self, targets: Sequence[float], names: Sequence[str]) -> str:
        """The numbers, in their unit."""
        return ", ".join(f"{number:.6g}" for number in self._in_unit(torch.tensor(targets)))

    def losses(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The squared error of each example, summed over its numbers, in units of ``scale``, and their number."""
        return mse_loss(outputs, batch["labels"], reduction="none").sum(1), self.predictions(batch)

    def measure(self, outputs: Tensor, batch: Batch) -> Measured:
        """Predicted and true numbers ``[B, T]``, in their own unit."""
        return {"predicted": self._in_unit(outputs), "label": self._in_unit(batch["labels"])}

    def score(self, measured: Measured, loss: float, names: Sequence[str] = ()) -> dict[str, float]:
        """Each metric is the mean over the numbers of an example; R² and correlations are 0 where undefined."""
        columns = list(zip(measured["predicted"].T, measured["label"].T, strict=True))
        return {name: float(np.mean([score(p, y) for p, y in columns])) for name, score in _SCORES.items()}

    def answers(self, outputs: Tensor, batch: Batch, names: Sequence[str]) -> list[dict[str, Any]]:
        """The number, or several by name."""
        rows = self._in_unit(outputs).tolist()
        return [{"predicted": row[0] if len(names) == 1 else dict(zip(names, row, strict=True))} for row in rows]

    def records(self, answers: Sequence[dict[str, Any]], source: Source, data: DataSettings) -> list[dict[str, Any]]:
        """As for every task; labels are numbers."""
        if data.label not in source.table.column_names:
            return list(answers)
        rows = number_column(source, data.label).tolist()
        return [
            {"label": row[0] if len(row) == 1 else row, **answer} for row, answer in zip(rows, answers, strict=True)
        ]

    def _in_unit(self, values: Tensor) -> np.ndarray:
        found: np.ndarray = values.double().cpu().numpy() * np.asarray(self.scale) + np.asarray(self.center)
        return found


def _rmse(predicted: np.ndarray, true: np.ndarray) -> float:
    return math.sqrt(float(np.mean((predicted - true) ** 2)))


def _mae(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted - true)))


def _r2(predicted: np.ndarray, true: np.ndarray) -> float:
    """1 − Σ(y − ŷ)² / Σ(y − ȳ)²."""
    from sklearn.metrics import r2_score  # slow to import

    return float(r2_score(true, predicted)) if np.ptp(true) else 0.0


def _pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    from scipy.stats import pearsonr  # slow to import

    return float(pearsonr(predicted, true).statistic) if np.ptp(predicted) and np.ptp(true) else 0.0


def _spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    from scipy.stats import spearmanr  # slow to import

    return float(spearmanr(predicted, true).statistic) if np.ptp(predicted) and np.ptp(true) else 0.0


_SCORES = {"rmse": _rmse, "mae": _mae, "r2": _r2, "pearson": _pearson, "spearman": _spearman}
