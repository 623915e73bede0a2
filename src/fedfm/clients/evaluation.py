"""Evaluation of the tunable's present value on examples: the server's test set, or a client's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedfm.clients.threads import use_threads
from fedfm.data.batches import evaluation_batches
from fedfm.data.examples import Examples
from fedfm.models.families import Family
from fedfm.models.stacked import PackedBlocks, packing_of, reading
from fedfm.models.tunable import Tunable
from fedfm.progress import steps
from fedfm.randomness import derive_seed
from fedfm.tasks.base import Batch, Measured, Task


@dataclass(frozen=True)
class Evaluator:
    """Evaluates one tunable.

    Attributes:
        tunable: what is evaluated, as it stands at the time of the call.
        family: of its backbone.
        task: loss and metrics.
        processor: the backbone's tokenizer or image processor.
        metrics: names of the metrics to report.
        batch_size: examples a forward pass.
        seed: the run's seed; masks are the same at every evaluation.
        device: where the tunable is.
        threads: of torch; None: as many as it has.
        labels: names of the labels, in the order of their ids; empty for tasks without labels.
    """

    tunable: Tunable
    family: Family
    task: Task
    processor: object
    metrics: tuple[str, ...]
    batch_size: int
    seed: int
    device: torch.device
    threads: int | None = None
    labels: tuple[str, ...] = ()

    def predicts(self, examples: Examples, indices: np.ndarray | None = None) -> bool:
        """Whether there is anything to predict in some examples; the model is not asked."""
        return any(self.task.predictions(batch).any() for _, batch in self._batches(examples, indices))

    def predictions(self, examples: Examples, indices: np.ndarray | None = None) -> int:
        """Number of examples or tokens that are predicted in some examples, all by default; the model is not asked."""
        return sum(int(self.task.predictions(batch).sum()) for _, batch in self._batches(examples, indices))

    def __call__(self, examples: Examples, indices: np.ndarray | None = None) -> dict[str, float]:
        """``loss`` (mean a prediction) and the metrics over some examples, all by default; raises as `measure`."""
        loss, measured = self.measure(examples, indices)
        scores = self.task.score(measured, loss, self.labels)
        return {"loss": loss, **{name: scores[name] for name in self.metrics}}

    def measure(self, examples: Examples, indices: np.ndarray | None = None) -> tuple[float, Measured]:
        """Mean loss a prediction over some examples, all by default, and what the task measures of each batch.

        Raises:
            ValueError: when there is nothing to predict in them; see `predicts`.
        """
        losses: list[float] = []
        predictions = 0
        measured: list[Measured] = []
        for _, batch, outputs in self._forward(examples, indices):
            totals, counts = self.task.losses(outputs, batch)
            losses.append(totals.double().sum().item())
            predictions += int(counts.sum().item())
            measured.append(self.task.measure(outputs, batch))
        if not predictions:
            raise ValueError("there is nothing to predict in these examples")
        return math.fsum(losses) / predictions, {
            key: np.concatenate([part[key] for part in measured]) for key in measured[0]
        }

    def example_losses(self, examples: Examples, indices: np.ndarray | None = None) -> np.ndarray:
        """float64 [N]: loss of each of some examples, all by default, mean over its predictions; NaN without any."""
        found = np.full(len(examples) if indices is None else len(indices), np.nan)
        for positions, batch, outputs in self._forward(examples, indices):
            totals, counts = (part.double().cpu().numpy() for part in self.task.losses(outputs, batch))
            found[positions[counts > 0]] = totals[counts > 0] / counts[counts > 0]
        return found

    def logits(self, examples: Examples, indices: np.ndarray | None = None) -> np.ndarray:
        """float32 [N, K]: a classifier's logits, or embeddings, of some examples, all by default, in their order.

        The examples need no labels.
        """
        rows: list[tuple[np.ndarray, np.ndarray]] = [
            (positions, logits.float().cpu().numpy()) for positions, _, logits in self._forward(examples, indices)
        ]
        order = np.argsort(np.concatenate([positions for positions, _ in rows]))
        return np.concatenate([logits for _, logits in rows])[order]

    def compared(self, examples: Examples, indices: np.ndarray) -> np.ndarray:
        """float32 [n]: the task's `compared` of some examples, in the order of ``indices``."""
        found = np.empty(len(indices), dtype=np.float32)
        for positions, batch, outputs in self._forward(examples, indices):
            found[positions] = self.task.compared(outputs, batch).float().cpu().numpy()
        return found

    def answers(self, examples: Examples) -> list[dict[str, Any]] | None:
        """What the model predicts for each example, see `Task.answers`; the examples need no labels."""
        found: dict[int, dict[str, Any]] = {}
        for positions, batch, outputs in self._forward(examples):
            answers = self.task.answers(outputs, batch, self.labels)
            if answers is None:
                return None
            found |= dict(zip(positions.tolist(), answers, strict=True))
        return [found[position] for position in range(len(examples))]

    def _forward(
        self, examples: Examples, indices: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, Batch, Tensor]]:
        """Positions in ``indices``, batch and the task's outputs of one forward pass after the other."""
        self.tunable.eval()
        blocks = PackedBlocks.of(self.tunable, self.family, self.task.peft_type)
        threads = nullcontext() if self.threads is None else use_threads(self.threads)
        with torch.inference_mode(), blocks.installed(), threads:
            passes = -(-(len(examples) if indices is None else len(indices)) // self.batch_size)
            for positions, cpu_batch in steps(self._batches(examples, indices), "evaluating", passes):
                batch = {name: tensor.to(self.device) for name, tensor in cpu_batch.items()}
                packing = packing_of(self.tunable, batch.get("attention_mask")) if blocks.can_be_packed else None
                with reading(packing):
                    outputs = self.task.outputs(self.tunable.model, batch)
                yield positions, batch, outputs

    def _batches(self, examples: Examples, indices: np.ndarray | None) -> Iterator[tuple[np.ndarray, Batch]]:
        """Positions in ``indices`` (all by default) and batch, on the CPU; the same at every call."""
        indices = np.arange(len(examples)) if indices is None else indices
        collate = self.task.collate(self.processor, derive_seed(self.seed, "evaluation masks"))
        for positions in evaluation_batches(examples.lengths[indices], self.batch_size):
            yield np.asarray(positions), collate(examples.take(indices[positions]))


def spread(values: list[float], *, higher_is_better: bool) -> dict[str, float]:
    """How evenly clients are served.

    Returns:
        ``mean``, ``worst_10_percent`` (mean over the worst tenth of the clients, at least one) and ``deviation``
        (population standard deviation), in the unit of ``values``.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if not higher_is_better:
        ordered = ordered[::-1]
    worst = ordered[: max(1, math.ceil(len(ordered) / 10))]
    return {"mean": float(ordered.mean()), "worst_10_percent": float(worst.mean()), "deviation": float(ordered.std())}
