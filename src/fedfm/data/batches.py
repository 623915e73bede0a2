"""In which order examples are visited, and which of them make a batch."""

from __future__ import annotations

import numpy as np


def epoch_order(count: int, generator: np.random.Generator) -> np.ndarray:
    """A random order of ``count`` examples, int64 [count]."""
    return generator.permutation(count)


def batch_plan(
    count: int, batch_size: int, *, epochs: int, max_steps: int | None, generator: np.random.Generator
) -> list[np.ndarray]:
    """The batches of local training, one array of indices below ``count`` for each optimiser step.

    Every pass over the examples is shuffled anew; its last batch may be smaller.

    Args:
        count: examples, at least 1.
        batch_size: examples a step.
        epochs: passes; ignored with ``max_steps``.
        max_steps: exactly that many steps, over as many passes as it takes; None for whole passes.
        generator: keyed to the client and the round.
    """
    per_pass = -(-count // batch_size)
    steps = per_pass * epochs if max_steps is None else max_steps
    plan: list[np.ndarray] = []
    while len(plan) < steps:
        order = epoch_order(count, generator)
        plan += [order[start : start + batch_size] for start in range(0, count, batch_size)]
    return plan[:steps]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of examples of like length, the longest first: little is padded, and memory runs out at once or never.

    Each example is in one batch; ``np.concatenate`` of the batches says where each result belongs.

    Args:
        lengths: tokens of each example, [N].
        batch_size: examples a batch.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
