"""Plug-in distillation: after training, the backbone with the plugged tunable θ learns from the tuned proxy.

What clients tuned was tuned to the proxy, and the backbone is not quite what it stood for. On unlabelled public data,

    L = τ²·KL(p_proxy ‖ p_backbone) + λ · mean over blocks of ‖H_proxy − H_backbone‖² / ‖H_proxy‖²,

with p at temperature τ; only θ in the backbone changes, dropout is off, padding does not count. The server does it
alone, so nothing crosses the wire.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.progress import steps
from fedfm.proxies.descent import Optimizer, only
from fedfm.proxies.divergence import divergence, states_and_logits
from fedfm.proxies.hidden import Pairs, relative_error
from fedfm.proxies.settings import PlugInDistillation
from fedfm.tasks.base import Batch

CONFIDENCE = 0.9
"""Share of its confidence on held-back examples that the backbone must keep."""


@dataclass(frozen=True)
class Resemblance:
    """The backbone's predictions beside the proxy's on the same examples.

    Attributes:
        divergence: mean KL(p_proxy ‖ p_backbone), nats.
        confidence: the backbone's mean probability of its first choice, 0 to 1.
    """

    divergence: float
    confidence: float

    def is_better_than(self, other: Resemblance) -> bool:
        """Whether predictions came nearer to the proxy's, and not by becoming indifferent."""
        return self.divergence < other.divergence and self.confidence >= CONFIDENCE * other.confidence


def distill_plug_in(
    proxy: Tunable, backbone: Tunable, pairs: Pairs, batches: Iterable[Batch], settings: PlugInDistillation
) -> list[float]:
    """Trains the backbone's tunable, in place.

    Args:
        proxy: with the tuned parameters.
        backbone: with the same, plugged in.
        pairs: blocks whose outputs are compared: the backbone's, then the proxy's.
        batches: public ones; one step each, ``settings.steps`` at most.
        settings: loss and optimiser.

    Returns:
        The loss of each step.

    Raises:
        RecipeError: the loss stops being a finite number.
    """
    trainable = list(backbone.parameters.values())
    optimizer = Optimizer(trainable, settings)
    ours, theirs = [block for block, _ in pairs], [block for _, block in pairs]
    losses: list[float] = []
    proxy.eval()
    backbone.eval()
    with only(backbone.model, trainable):
        for batch in steps(islice(batches, settings.steps), "distilling the plug-in", settings.steps):
            with torch.no_grad():
                targets, wanted = states_and_logits(proxy.model, theirs, batch)
            states, found = states_and_logits(backbone.model, ours, batch)
            loss = settings.temperature**2 * divergence(wanted, found, settings.temperature)
            if settings.hidden:
                mask = batch.get("attention_mask")
                errors = [relative_error(targets[mine.path], states[own.path], mask) for own, mine in pairs]
                loss = loss + settings.hidden * torch.stack(errors).mean()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                problem = f"plug-in distillation diverged at step {len(losses)}; lower the learning rate"
                raise RecipeError(problem, where="proxy.plug_in.distill")
            optimizer.step(loss)
    return losses


@torch.no_grad()
def compare(proxy: Tunable, backbone: Tunable, batches: Sequence[Batch]) -> Resemblance:
    """How the backbone predicts beside the proxy, both with what they carry."""
    proxy.eval()
    backbone.eval()
    count, diverged, confidence = 0, 0.0, 0.0
    for batch in batches:
        _, wanted = states_and_logits(proxy.model, [], batch)
        _, found = states_and_logits(backbone.model, [], batch)
        count += len(found)
        diverged += divergence(wanted, found).item() * len(found)
        confidence += found.softmax(-1).amax(-1).sum().item()
    return Resemblance(diverged / count, confidence / count)
