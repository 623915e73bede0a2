"""Strategies: in which order, or by which scores, a client chooses layers.

Positions: `full`, `top` (nearest the output), `bottom` (nearest the input), `both` (bottom, top, bottom, … ), `random`.
Scores, which clients measure: `pro` ‖g_l‖² (Sun et al., arXiv:2408.15600); `rgn` ‖g_l‖²/‖θ_l‖² and `snr`, the mean of
E[g]²/Var[g] over a layer's parameters (Lee et al., Surgical Fine-Tuning, arXiv:2210.11466).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch

from fedfm.randomness import numpy_generator
from fedfm.views.selection.base import GRADIENT, SNR, Situation

Strategy = Literal["pro", "full", "top", "bottom", "both", "snr", "rgn", "random"]

Order = Callable[[Situation, str], list[int]]
"""A function of the round and a client that returns all layers, first the one to choose first."""


def _top(at: Situation, client: str) -> list[int]:
    return list(range(len(at.layers)))[::-1]


def _bottom(at: Situation, client: str) -> list[int]:
    return list(range(len(at.layers)))


def _both(at: Situation, client: str) -> list[int]:
    count = len(at.layers)
    return [place // 2 if place % 2 == 0 else count - 1 - place // 2 for place in range(count)]


def _random(at: Situation, client: str) -> list[int]:
    generator = numpy_generator(at.seed, "layers", round=at.round, client=client)
    return [int(layer) for layer in generator.permutation(len(at.layers))]


ORDERS: Mapping[str, Order] = {"full": _bottom, "top": _top, "bottom": _bottom, "both": _both, "random": _random}
"""Strategies that ask no client."""


def _gradient(at: Situation) -> np.ndarray:
    return np.array([known.figures[GRADIENT] for known in at.clients.values()], float)


def _relative(at: Situation) -> np.ndarray:
    weights = [
        sum(float(torch.linalg.vector_norm(at.params[name], dtype=torch.float64)) ** 2 for name in names)
        for names in at.layers.tensors
    ]
    found: np.ndarray = _gradient(at) / np.maximum(weights, np.finfo(float).tiny)
    return found


def _signal(at: Situation) -> np.ndarray:
    return np.array([known.figures[SNR] for known in at.clients.values()], float)


SCORES: Mapping[str, Callable[[Situation], np.ndarray]] = {"pro": _gradient, "rgn": _relative, "snr": _signal}
"""Strategies by scores: a function of the round that returns them, ``[N, L]``."""
