"""The trimmed mean: at each coordinate, over the clients that hold it, without the smallest and the largest values.

Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, arXiv:1803.01498, Option II. Of m
values the ⌊β·m⌋ smallest and the ⌊β·m⌋ largest are left out; the result is the mean of the others. Clients count alike,
however many examples they have; one that was drawn twice counts twice. β = 0 is the plain mean, and so is any β where
there are fewer than 1/β values.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.base import Fold
from fedfm.aggregation.gathered import OrderFold
from fedfm.aggregation.robust.base import MixingRule
from fedfm.spec import Spec


class TrimmedMean(MixingRule):
    """Coordinate-wise mean without extreme values; unweighted."""

    rule: Literal["trimmed-mean"] = "trimmed-mean"
    """Coordinate-wise mean without extreme values; clients count alike, however many examples they have."""
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    """β: share of the values of a coordinate that is left out at each end."""

    def begin(self, spec: Spec, params: Mapping[str, Tensor], *, seed: int, round: int) -> Fold:  # noqa: A002
        """The fold of a round."""
        return OrderFold(spec, functools.partial(_trimmed_mean, self.trim), self.rows(seed, round))


def _trimmed_mean(trim: float, values: Tensor, counts: Tensor) -> Tensor:
    """Of the first ``counts`` values of each column."""
    left_out = (trim * counts.double()).floor().long()
    rank = torch.arange(len(values))[:, None]
    kept = (rank >= left_out) & (rank < counts - left_out)
    return values.where(kept, 0).sum(0) / (counts - 2 * left_out)
