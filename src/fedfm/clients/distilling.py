"""Learning from logits: a model is fitted to what others predict on unlabelled examples.

With logits z of the student and z* of its teachers, both [N, K],

    kl:   L = T² / N · Σ_n KL( softmax(z*_n / T) ‖ softmax(z_n / T) ),
    mse:  L = 1 / (N·K) · Σ_n ‖z_n − z*_n‖².

Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531. The second is the limit of the first for
a high temperature, up to a factor, where each row of logits has mean 0 (Sect. 2.1 there).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, mse_loss
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers import PreTrainedTokenizerBase

from fedfm.clients.evaluation import Evaluator
from fedfm.data.batches import batch_plan
from fedfm.data.examples import Examples
from fedfm.data.text import encode_texts
from fedfm.randomness import numpy_generator

PUBLIC, PREDICTIONS, TEACHER = "public", "predictions", "teacher"
"""Groups of messages: public texts, a client's logits on them, and logits that it learns from. These are of the public
texts of the message, or of texts that the last group has beside them."""

LOGITS = "logits"
"""The tensor of the groups of logits."""


@dataclass(frozen=True)
class Distilling:
    """How a model is fitted.

    Attributes:
        steps: optimiser steps.
        batch_size: examples of a step.
        learning_rate: of AdamW at the first step; it falls to zero along half a cosine.
        temperature: T.
        loss: name in `LOSSES`.
    """

    steps: int
    batch_size: int
    learning_rate: float
    temperature: float
    loss: str = "kl"


def distillation_losses(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) of each example, [B]; both are logits [B, K]."""
    expected, found = log_softmax(teacher / temperature, dim=-1), log_softmax(student / temperature, dim=-1)
    return temperature**2 * (expected.exp() * (expected - found)).sum(-1)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The mean of `distillation_losses` over examples."""
    return distillation_losses(student, teacher, temperature).mean()


LOSSES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "kl": distillation_loss,
    "mse": lambda student, teacher, temperature: mse_loss(student, teacher),
}
"""Name → loss of a student's logits [B, K], given a teacher's and the temperature; a scalar."""


@dataclass(frozen=True)
class Learner:
    """A classifier that reads texts, predicts, and learns from logits.

    Attributes:
        evaluator: of its tunable; its number of threads decides bits.
        text_length: tokens of a text at most.
    """

    evaluator: Evaluator
    text_length: int

    def encode(self, sides: Sequence[list[str]]) -> Examples:
        """Texts, or pairs of texts, in the tokens of this model.

        Raises:
            DataError: the model has no token for a text.
        """
        return encode_texts(sides, cast(PreTrainedTokenizerBase, self.evaluator.processor), self.text_length)

    def logits(self, examples: Examples) -> Tensor:
        """float32 [N, K]: what the model predicts with the present value of its tunable."""
        return torch.from_numpy(self.evaluator.logits(examples))

    def learn(
        self,
        examples: Examples,
        teacher: Tensor,
        settings: Distilling,
        *,
        round: int,  # noqa: A002 - the field's word
        client: str = "",
    ) -> float:
        """Fits the tunable to logits, in place, without dropout; the mean loss of the steps.

        Args:
            examples: N unlabelled examples.
            teacher: logits [N, K].
            settings: steps, optimiser and temperature.
            round: key of the batches.
            client: key of the batches; empty at the server.

        Raises:
            FloatingPointError: the loss is not a finite number.
        """
        here = self.evaluator
        collate, distance = here.task.collate(here.processor, 0), LOSSES[settings.loss]

        def loss(chosen: np.ndarray) -> Tensor:
            batch = {name: tensor.to(here.device) for name, tensor in collate(examples.take(chosen)).items()}
            outputs = here.task.outputs(here.tunable.model, batch)
            return distance(outputs, teacher[torch.from_numpy(chosen)].to(here.device), settings.temperature)

        return descend(here, loss, len(examples), settings, round=round, client=client)


def descend(
    evaluator: Evaluator,
    loss_of: Callable[[np.ndarray], Tensor],
    count: int,
    settings: Distilling,
    *,
    round: int,  # noqa: A002 - the field's word
    client: str = "",
) -> float:
    """Steps of AdamW on public examples, without dropout, in place; the mean loss of the steps.

    Args:
        evaluator: of the tunable.
        loss_of: the loss of a batch, by the places of its examples.
        count: of the examples.
        settings: steps and optimiser.
        round: key of the batches.
        client: key of the batches; empty at the server.

    Raises:
        FloatingPointError: the loss is not a finite number.
    """
    tunable = evaluator.tunable
    optimizer = AdamW(list(tunable.parameters.values()), lr=settings.learning_rate, weight_decay=0.0)
    schedule, losses = CosineAnnealingLR(optimizer, settings.steps), list[float]()
    generator = numpy_generator(evaluator.seed, "distillation batches", round=round, client=client)
    tunable.eval()
    for chosen in batch_plan(count, settings.batch_size, epochs=1, max_steps=settings.steps, generator=generator):
        loss = loss_of(chosen)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss of distillation is not finite at step {len(losses) + 1}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return math.fsum(losses) / len(losses)


def learner_of(evaluator: Evaluator, *, text_length: int, threads: int) -> Learner:
    """A learner that computes with a fixed number of threads."""
    return Learner(replace(evaluator, threads=threads), text_length)
