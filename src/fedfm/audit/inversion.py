"""Gradient inversion: what can be read off one update of a client (`fedfm.audit.gradients`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedfm.audit.base import Audit, Audited, NotMeasuredError
from fedfm.audit.gradients import Victim, inverted, label_of, likeness, released
from fedfm.randomness import derive_seed


class Inversion(Audit):
    """Labels and embeddings from the update of one SGD step on one example, as sent and as released with noise."""

    def measure(self, run: Audited) -> dict[str, Any]:
        """``sent`` (what the server sees) and ``released`` (clipped, with noise; None without), each with shares of
        ``labels`` and ``tokens`` recovered and the mean ``cosine`` of embeddings.
        """
        if isinstance(run.victim, str):
            raise NotMeasuredError(run.victim)
        return recovered(run.victim, run.seed)


def recovered(victim: Victim, seed: int) -> dict[str, Any]:
    """Figures of the attack on a victim; as `Inversion.measure`."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "audit inversion"))
    clip, z = victim.clip, victim.noise_multiplier
    found: dict[str, Any] = {"examples": len(victim.ids), "tokens": victim.ids.shape[1], "released": None}
    with _exactly(victim):
        found["sent"] = _attack(victim, lambda gradient: gradient, generator)
        if clip is not None and z is not None:
            found["released"] = _attack(victim, lambda gradient: released(gradient, clip, z, generator), generator)
    return found


def _attack(
    victim: Victim, seen: Callable[[Sequence[Tensor]], Sequence[Tensor]], generator: torch.Generator
) -> dict[str, Any]:
    """Share of labels and tokens recovered, and the mean cosine; None where it was not attempted."""
    right, cosines, tokens = [], [], []
    for example, label in enumerate(victim.labels.tolist()):
        gradient = seen(victim.gradient(victim.inputs(example), label))
        guessed = label_of(gradient, victim.classes)
        right.append(None if guessed is None else guessed == label)
        if victim.is_small:
            guess = inverted(victim, gradient, label if guessed is None else guessed, generator)
            cosine, share = likeness(victim, guess, example)
            cosines.append(cosine)
            tokens.append(share)
    return {
        "labels": None if None in right else float(np.mean([bool(one) for one in right])),
        "cosine": float(np.mean(cosines)) if cosines else None,
        "tokens": float(np.mean(tokens)) if tokens else None,
    }


@contextmanager
def _exactly(victim: Victim) -> Iterator[None]:
    """A small model in float64, in which a search converges."""
    model: nn.Module = victim.tunable.model
    victim.tunable.eval()
    before = next(model.parameters()).dtype
    if victim.is_small:
        model.to(torch.float64)
    try:
        yield
    finally:
        model.to(before)
