"""What making and aligning a proxy costs the server, estimated from passes over public examples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedfm.proxies.trace import Model, run
from fedfm.tasks.base import Batch

STEP = 2
"""Forward passes that a step takes: a backward pass in which few parameters have gradients is about as long as one."""


@dataclass(frozen=True)
class Passes:
    """Forward passes of single examples, or what takes as long.

    Attributes:
        backbone: through the backbone.
        proxy: through the proxy.
    """

    backbone: float
    proxy: float

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.backbone + other.backbone, self.proxy + other.proxy)

    def seconds(self, speed: Passes) -> float:
        """CPU seconds, from those of one pass through each model."""
        return self.backbone * speed.backbone + self.proxy * speed.proxy


def of_descent(steps: int, batch_size: int, examples: int) -> Passes:
    """Steps in which the proxy learns from the backbone; a batch has at most all ``examples``."""
    passes = steps * min(batch_size, examples)
    return Passes(passes, STEP * passes)


@torch.no_grad()
def pass_seconds(model: Model, batches: Sequence[Batch]) -> float:
    """CPU seconds of one example's forward pass, the mean over some batches, after a first one that is not timed."""
    model.eval()
    run(model, batches[0])
    start = time.process_time()
    for batch in batches:
        run(model, batch)
    examples = sum(len(next(iter(batch.values()))) for batch in batches)
    return (time.process_time() - start) / examples
