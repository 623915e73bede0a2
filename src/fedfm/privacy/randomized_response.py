"""Randomised response on classes: local differential privacy for a histogram.

Warner, Randomized response, JASA 1965; for k classes Kairouz, Bonawitz, Ramage, Discrete distribution estimation under
local privacy, arXiv:1602.07387. Each example answers its own class with probability p, and each other class with q:

    p = e^ε / (e^ε + k − 1),   q = 1 / (e^ε + k − 1)

so that any answer is at most e^ε times as likely for one class as for another: each example has ε-differential privacy
whoever reads the answers, with their number known. Of n answers, r_c for class c, (r_c − n·q) / (p − q) estimates the
number of examples without bias.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence


def responded(counts: Sequence[int], epsilon: float) -> list[int]:
    """The answers of all examples, by class, with randomness from the system's entropy.

    Args:
        counts: examples of each class, ``[k]``.
        epsilon: ε > 0 of each example.
    """
    keep, draw, answers = _keeping(len(counts), epsilon), secrets.SystemRandom(), [0] * len(counts)
    for own, examples in enumerate(counts):
        for _ in range(examples):
            other = draw.randrange(len(counts) - 1) if draw.random() >= keep else None
            answers[own if other is None else other + (other >= own)] += 1
    return answers


def estimated(answers: Sequence[int], epsilon: float) -> list[float]:
    """The estimate of the number of examples of each class; it may be negative.

    Args:
        answers: as `responded` returns them.
        epsilon: as there.
    """
    classes, keep = len(answers), _keeping(len(answers), epsilon)
    if classes == 1:
        return [float(answers[0])]
    other = (1 - keep) / (classes - 1)
    return [(found - sum(answers) * other) / (keep - other) for found in answers]


def _keeping(classes: int, epsilon: float) -> float:
    """P: the probability that an example answers its own class."""
    return 1 / (1 + (classes - 1) * math.exp(-epsilon))
