"""Scores of FFN neurons; a proxy keeps the neurons with the highest scores. Each kind is a module and a line here."""

from __future__ import annotations

from torch import Tensor

from fedfm.proxies.fedpft.scores import activation, chance, gradient, reconstruct
from fedfm.proxies.fedpft.scores.base import Score, Scoring
from fedfm.proxies.fedpft.scores.norms import concat_l2, of_each, product
from fedfm.proxies.fedpft.settings import WEIGHTS_ALONE, NeuronScore

SCORES: dict[NeuronScore, Score] = {
    "concat-l2": of_each(concat_l2),
    "product": of_each(product),
    "activation": activation.score,
    "gradient": gradient.score,
    "reconstruct": reconstruct.score,
    "random": chance.score,
}
"""Kinds of score by name."""


def scores(kind: NeuronScore, scoring: Scoring) -> dict[str, Tensor]:
    """Scores of all neurons of some blocks, float64 [m] on the CPU, by block path.

    Raises:
        ValueError: a kind that reads public data has none.
    """
    if kind not in WEIGHTS_ALONE and not scoring.batches:
        raise ValueError(f"the score {kind} needs batches")
    return SCORES[kind](scoring)


__all__ = ["SCORES", "Scoring", "scores"]
