"""``activation``: E|aⱼ|·‖w²ⱼ‖ on public data, so weights count by their inputs, as in Wanda (arXiv:2306.11695)."""

from __future__ import annotations

from torch import Tensor

from fedfm.proxies.fedpft.activity import measure_activity, usage_scores
from fedfm.proxies.fedpft.scores.base import Scoring


def score(scoring: Scoring) -> dict[str, Tensor]:
    """The mean size of what leaves a neuron."""
    activity = measure_activity(scoring.backbone.model, scoring.blocks, scoring.batches)
    return {block.path: -usage_scores("contribution", activity[block.path], block) for block in scoring.blocks}
