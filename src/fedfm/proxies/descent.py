"""Gradient steps on some parameters of a model: AdamW with clipping and a linear schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import get_linear_schedule_with_warmup

from fedfm.proxies.settings import Descent
from fedfm.proxies.trace import Model


class Optimizer:
    """AdamW with clipping and a linear schedule; what masks exclude stays bit for bit what it is."""

    def __init__(
        self,
        trainable: Sequence[nn.Parameter],
        settings: Descent,
        masks: Mapping[nn.Parameter, Tensor] | None = None,
    ) -> None:
        """An optimiser.

        Args:
            trainable: the parameters that change.
            settings: learning rate, schedule, decay, clipping.
            masks: which values of a parameter may change, shaped to multiply it.
        """
        self._trainable = trainable
        self._max_norm = settings.max_grad_norm
        self._fixed = _Fixed(masks or {})
        self._adamw = AdamW(_groups(trainable, settings.weight_decay), lr=settings.learning_rate)
        warmup = int(settings.warmup_ratio * settings.steps)
        self._schedule = get_linear_schedule_with_warmup(self._adamw, warmup, settings.steps)

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a loss."""
        loss.backward()  # type: ignore[no-untyped-call]
        self._fixed.clear_gradients()
        if self._max_norm is not None:
            nn.utils.clip_grad_norm_(self._trainable, self._max_norm)
        self._adamw.step()
        self._fixed.restore()
        self._adamw.zero_grad()
        self._schedule.step()


def _groups(trainable: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not, as in the Trainer that the released code uses."""
    matrices = [parameter for parameter in trainable if parameter.dim() > 1]
    vectors = [parameter for parameter in trainable if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


class _Fixed:
    """Restores what masks exclude after each step: weight decay changes it even where the gradient is zero."""

    def __init__(self, masks: Mapping[nn.Parameter, Tensor]) -> None:
        self._masks = {parameter: mask.to(parameter.device) for parameter, mask in masks.items()}
        self._before = {parameter: parameter.detach().clone() for parameter in masks}

    def clear_gradients(self) -> None:
        for parameter, mask in self._masks.items():
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, mask in self._masks.items():
            parameter.copy_(torch.where(mask, parameter, self._before[parameter]))


@contextmanager
def only(model: Model, trainable: Sequence[nn.Parameter]) -> Iterator[None]:
    """Lets only some of the model's parameters require gradients, for a while."""
    parameters = list(model.parameters())
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_()
    try:
        yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)
