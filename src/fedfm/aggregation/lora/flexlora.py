"""FlexLoRA: the best factors of rank r for the mean of the clients' products.

Bai et al., Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources,
arXiv:2402.11505. For each adapted matrix

    W = Σ p_c·B_c·A_c,   W ≈ U·S·Vᵀ with the r largest singular values,   B ← U·√S,   A ← √S·Vᵀ

which is nearest to W in the Frobenius norm among all of rank r. A client of rank r_c (`federation.ranks`) gets the
leading r_c components, which are nearest to W among all of rank r_c. Tensors that belong to no pair of factors are
averaged. The SVD is computed from thin stacks, exactly.

Where W has fewer than r components, the factors of the others would be zero, and no gradient would ever change them.
They get B = 0 and keep the server's rows of A, as a new adapter has them: the product is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedfm.aggregation.base import Contribution, Fold
from fedfm.aggregation.lora.factors import TrainedFactors, flat
from fedfm.aggregation.mean import MeanFold, Weighted
from fedfm.capabilities import (
    BARRIER,
    INDIVIDUAL_UPDATES,
    LASTING_COORDINATES,
    LOW_RANK_FACTORS,
    ONE_MODEL,
    TUNABLE_UPDATES,
)
from fedfm.models.low_rank import Thin
from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views.base import Slices

RELATIVE_ZERO = 1e-7
"""Singular values below this share of the largest are rounding errors of float32."""


class FlexLora(Weighted):
    """The best factors of rank r for the mean of the clients' products."""

    rule: Literal["flexlora"] = "flexlora"
    """The best factors of rank `tune.r` for the mean of the clients' products B·A, by an SVD (FlexLoRA); also for
    clients of unlike ranks (`federation.ranks`)."""

    needs: ClassVar[Mapping[str, str]] = {
        LOW_RANK_FACTORS: "it multiplies the factors of each pair",
        ONE_MODEL: "it multiplies both factors of each client",
        BARRIER: "a client's factors after training are the server's at its start plus its update",
        INDIVIDUAL_UPDATES: "it multiplies the factors of each client",
        TUNABLE_UPDATES: "clients return the factors that they train",
    }
    takes: ClassVar[Mapping[str, str]] = {
        LASTING_COORDINATES: "an SVD chooses new factors in each round, which may be turned and swapped"
    }

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> FlexLoraFold:
        """An empty fold."""
        return FlexLoraFold(self, spec, params)


class FlexLoraFold(Fold):
    """Factors on disk, everything else in a running mean."""

    def __init__(self, rule: Weighted, spec: Spec, params: Mapping[str, Tensor]) -> None:
        self._rule, self._params = rule, params
        self._trained = TrainedFactors(spec, params)
        self._factors = frozenset(self._trained.pairs) | frozenset(self._trained.pairs.values())
        self._rest: MeanFold = rule.mean(spec)

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Folds in one update, as `fedfm.aggregation.base.Fold.add`."""
        self._trained.add(update, slices, self._rule.weight(contribution))
        rest = {name: index for name, index in slices.items() if name not in self._factors}
        self._rest.add({name: update[name] for name in rest}, contribution, rest)

    def result(self) -> Params:
        """New factors minus w_t, and the mean of all other tensors.

        Raises:
            ValueError: nothing was folded in.
        """
        found = self._rest.result()
        for a, b in self._trained.pairs.items():
            if self._trained.trained(a):
                new_a, new_b = best_factors(self._trained.product(a), flat(self._params[a]))
                for name, new in ((a, new_a), (b, new_b)):
                    before = self._params[name]
                    found[name] = (new.reshape(before.shape) - before.double()).to(found[name].dtype)
        return found

    def replaced(self) -> frozenset[str]:
        """The factors of pairs that a client has trained."""
        pairs = self._trained.pairs
        return frozenset(name for a in pairs if self._trained.trained(a) for name in (a, pairs[a]))


def best_factors(product: Thin, spare: Tensor) -> tuple[Tensor, Tensor]:
    """A = √S·Vᵀ and B = U·√S of the largest singular values.

    Args:
        product: W.
        spare: rows of A for components that W does not have, ``[r, in]``.
    """
    u, values, vt = product.svd(len(spare))
    count = int((values > RELATIVE_ZERO * values[:1]).sum())
    root = values[:count].sqrt()
    a, b = spare.clone(), torch.zeros(len(u), len(spare), dtype=spare.dtype)
    a[:count], b[:, :count] = root[:, None] * vt[:count], u[:, :count] * root
    return a, b
