"""Fitting a proxy's FFNs to the backbone by gradient steps on public data: layer-level distillation.

Over the compressed blocks C, with T and H the hidden states of backbone and proxy after a block,

    L = 1/|C| Σ ( A + α·B ) + γ·KL(p ‖ p̂),    A = ‖T − H‖² / ‖T‖²,    B = ‖W₂W₁ − Ŵ₂Ŵ₁‖² / ‖W₂W₁‖².

With γ above 0, p and p̂ are the predictions of backbone and proxy at real positions. That term is not the paper's: A
weighs all directions of a hidden state alike, and a language model's predictions depend on some much more than on
others.

The proxy runs on its own inputs, so that a block also learns to correct the errors of the blocks before it.
Peng et al., FedPFT: Federated Proxy Fine-Tuning of Foundation Models, arXiv:2404.11536. In the
released code B has no gradient; here it has one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from fedfm.errors import RecipeError
from fedfm.models.families import Block
from fedfm.progress import steps
from fedfm.proxies.descent import Optimizer, only
from fedfm.proxies.divergence import divergence, states_and_logits
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
        settings: steps, optimiser, α (``product``) and γ (``predictions``).
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
    optimizer = Optimizer(trainable, settings, masks)
    losses: list[float] = []
    teacher.eval()
    student.eval()
    with only(student, trainable):
        for batch in steps(islice(batches, settings.steps), "distilling the proxy", settings.steps):
            loss = _resemblance_loss(teacher, student, pairs, batch, settings.predictions)
            if targets:
                loss = loss + settings.product * _product_loss(targets, [block for _, block in pairs])
            if not math.isfinite(loss.item()):
                raise RecipeError(
                    f"distillation diverged at step {len(losses) + 1}; lower the learning rate", where=where
                )
            losses.append(loss.item())
            optimizer.step(loss)
    return losses


def _resemblance_loss(teacher: Model, student: Model, pairs: Pairs, batch: Batch, predictions: float) -> Tensor:
    """The mean of A over the pairs, and γ·KL where ``predictions``, γ, is above 0; else no pass needs a head."""
    shown, fitted = [block for block, _ in pairs], [block for _, block in pairs]
    mask = batch.get("attention_mask")
    if not predictions:
        with torch.no_grad():
            targets = hidden_states(teacher, shown, batch)
        return _mean_error(pairs, targets, hidden_states(student, fitted, batch), mask)
    with torch.no_grad():
        targets, wanted = states_and_logits(teacher, shown, batch)
    states, found = states_and_logits(student, fitted, batch)
    return _mean_error(pairs, targets, states, mask) + predictions * divergence(wanted, found)


def _mean_error(
    pairs: Pairs, targets: Mapping[str, Tensor], states: Mapping[str, Tensor], mask: Tensor | None
) -> Tensor:
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
