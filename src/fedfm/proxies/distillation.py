"""Fitting a proxy's FFNs to the backbone by gradient steps on public data: layer-level distillation.

Over the compressed blocks C, with T and H the hidden states of backbone and proxy after a block,

    L = 1/|C| Σ ( A + α·B ),    A = ‖T − H‖² / ‖T‖²,    B = ‖W₂W₁ − Ŵ₂Ŵ₁‖² / ‖W₂W₁‖².

The proxy runs on its own inputs, so that a block also learns to correct the errors of the blocks before it.
Peng et al., FedPFT: Federated Proxy Fine-Tuning of Foundation Models, arXiv:2404.11536. In the
released code B has no gradient; here it has one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import get_linear_schedule_with_warmup

from fedfm.errors import RecipeError
from fedfm.models.families import Block
from fedfm.progress import steps
from fedfm.proxies.ffn import vectors
from fedfm.proxies.hidden import Pairs, relative_error
from fedfm.proxies.settings import DistillSettings
from fedfm.proxies.trace import Model, hidden_states
from fedfm.tasks.base import Batch


def distill(
    teacher: Model,
    student: Model,
    pairs: Pairs,
    trainable: Sequence[nn.Parameter],
    batches: Iterable[Batch],
    settings: DistillSettings,
    *,
    masks: Mapping[nn.Parameter, Tensor] | None = None,
    where: str = "proxy.distill",
) -> list[float]:
    """Trains some parameters of the student, in place, by AdamW; dropout is off in both models.

    Only matrices decay, as in transformers' Trainer, which the released code uses.

    Args:
        teacher: the backbone.
        student: the proxy, on the same device.
        pairs: the blocks whose outputs are compared.
        trainable: parameters of the student that the teacher does not share.
        batches: public ones; one step each, ``settings.steps`` at most.
        settings: steps, optimiser and α.
        masks: which values of a parameter may change, shaped to multiply it; all others keep their bits.
        where: the recipe key of the settings, for errors.

    Returns:
        The loss of each step.

    Raises:
        RecipeError: when the loss stops being a finite number.
        ValueError: when the teacher shares a trainable parameter.
    """
    shared = {id(parameter) for parameter in teacher.parameters()}
    if any(id(parameter) in shared for parameter in trainable):
        raise ValueError("the teacher shares a parameter that is to be trained")
    targets = _products([block for block, _ in pairs]) if settings.product else []
    optimizer = _Optimizer(trainable, settings, masks or {})
    losses: list[float] = []
    teacher.eval()
    student.eval()
    with _only(student, trainable):
        for batch in steps(islice(batches, settings.steps), "distilling the proxy", settings.steps):
            loss = _hidden_loss(teacher, student, pairs, batch)
            if targets:
                loss = loss + settings.product * _product_loss(targets, [block for _, block in pairs])
            if not math.isfinite(loss.item()):
                raise RecipeError(
                    f"distillation diverged at step {len(losses) + 1}; lower the learning rate", where=where
                )
            losses.append(loss.item())
            optimizer.step(loss)
    return losses


class _Optimizer:
    """AdamW with clipping and a linear schedule; what masks exclude stays bit for bit what it is."""

    def __init__(
        self, trainable: Sequence[nn.Parameter], settings: DistillSettings, masks: Mapping[nn.Parameter, Tensor]
    ) -> None:
        self._trainable = trainable
        self._max_norm = settings.max_grad_norm
        self._fixed = _Fixed(masks)
        self._adamw = AdamW(_groups(trainable, settings.weight_decay), lr=settings.learning_rate)
        warmup = int(settings.warmup_ratio * settings.steps)
        self._schedule = get_linear_schedule_with_warmup(self._adamw, warmup, settings.steps)

    def step(self, loss: Tensor) -> None:
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


def _hidden_loss(teacher: Model, student: Model, pairs: Pairs, batch: Batch) -> Tensor:
    """The mean of A over the pairs."""
    with torch.no_grad():
        targets = hidden_states(teacher, [block for block, _ in pairs], batch)
    states = hidden_states(student, [block for _, block in pairs], batch)
    mask = batch.get("attention_mask")
    errors = [relative_error(targets[shown.path], states[block.path], mask) for shown, block in pairs]
    return torch.stack(errors).mean()


def _products(blocks: Sequence[Block]) -> list[Tensor]:
    """W₂W₁ of each FFN, ``[1, d, d]``; where it is gated, of gate and of up, ``[2, d, d]``."""
    found = []
    for block in blocks:
        *inputs, output = vectors(block)
        found.append(torch.stack([output.T @ vector for vector in inputs]))
    return found


def _product_loss(targets: Sequence[Tensor], blocks: Sequence[Block]) -> Tensor:
    """The mean of B over the blocks, a block's products taken together."""
    errors = [
        (target - product).square().sum() / target.square().sum()
        for target, product in zip(targets, _products(blocks), strict=True)
    ]
    return torch.stack(errors).mean()


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
def _only(model: Model, trainable: Sequence[nn.Parameter]) -> Iterator[None]:
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
