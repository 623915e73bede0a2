"""Order and batches of examples."""

from __future__ import annotations

import numpy as np


def epoch_order(count: int, generator: np.random.Generator) -> np.ndarray:
    """A random order of ``count`` examples, int64 [count]."""
    return generator.permutation(count)


def batch_plan(
    count: int, batch_size: int, *, epochs: int, max_steps: int | None, generator: np.random.Generator
) -> list[np.ndarray]:
    """The batches of local training: one array of indices below ``count`` for each optimiser step.

    The examples are shuffled before each pass. The last batch of a pass may be smaller.

    Args:
        count: number of examples, at least 1.
        batch_size: examples per step.
        epochs: passes over the examples; ignored with ``max_steps``.
        max_steps: the exact number of steps, over as many passes as they need; None for whole passes.
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
    """Batches of examples of similar length, the longest first.

    This order needs little padding, and if the memory is too small, the first batch shows it. Each example is in one
    batch; ``np.concatenate`` of the batches gives the example of each result.

    Args:
        lengths: tokens of each example, [N].
        batch_size: examples per batch.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
