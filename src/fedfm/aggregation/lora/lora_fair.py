"""LoRA-FAIR: the mean of the factors, with B corrected so that the product is nearer to the mean of the products.

Bian et al., LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement, arXiv:2411.14961.
Ā is kept, as the start of the next round. With W = Σ p_c·B_c·A_c, B ← B̄ + dB, where dB minimises

    ‖W − (B̄ + dB)·Ā‖_F² + λ·‖dB‖_F²,   so that   dB = (W − B̄·Ā)·Āᵀ·(Ā·Āᵀ + λ·I)⁻¹

The paper minimises 1 − cos(W, (B̄ + dB)·Ā) + λ·‖dB‖² by gradient steps; the squared distance has this closed form. λ is
`ridge` times the mean squared norm of the rows of Ā, so that it means the same for every matrix. At `ridge: 0`, B·Ā is
the projection of W to the rows of Ā; no choice of B is nearer to W.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.base import Contribution, Fold
from fedfm.aggregation.lora.factors import TrainedFactors, flat
from fedfm.aggregation.mean import MeanFold, Weighted
from fedfm.capabilities import BARRIER, INDIVIDUAL_UPDATES, LOW_RANK_FACTORS, ONE_MODEL, TUNABLE_UPDATES
from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views.base import Slices


class LoraFair(Weighted):
    """Mean of the factors, with B corrected at the server."""

    rule: Literal["lora-fair"] = "lora-fair"
    """Mean of the factors, with B corrected at the server, so that B·A is nearer to the mean of the clients' products
    (LoRA-FAIR)."""
    ridge: Annotated[float, Field(ge=0)] = 0.01
    """λ of the correction, as a share of the mean squared norm of the rows of A; 0: as near as a correction of B
    alone can be."""

    needs: ClassVar[Mapping[str, str]] = {
        LOW_RANK_FACTORS: "it multiplies the factors of each pair",
        ONE_MODEL: "it multiplies both factors of each client",
        BARRIER: "a client's factors after training are the server's at its start plus its update",
        INDIVIDUAL_UPDATES: "it multiplies the factors of each client",
        TUNABLE_UPDATES: "clients return the factors that they train",
    }

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> LoraFairFold:
        """An empty fold."""
        return LoraFairFold(self, self.mean(spec), TrainedFactors(spec, params), params)


class LoraFairFold(Fold):
    """A running mean, and the clients' factors on disk."""

    def __init__(self, rule: LoraFair, mean: MeanFold, trained: TrainedFactors, params: Mapping[str, Tensor]) -> None:
        self._rule, self._mean, self._trained, self._params = rule, mean, trained, params

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Folds in one update, as `fedfm.aggregation.base.Fold.add`."""
        self._mean.add(update, contribution, slices)
        self._trained.add(update, slices, self._rule.weight(contribution))

    def result(self) -> Params:
        """The mean, with dB added to each factor B.

        Raises:
            ValueError: nothing was folded in.
        """
        found = self._mean.result()
        for a, b in self._trained.pairs.items():
            if self._trained.trained(a):
                mean_a, mean_b = (
                    flat(self._trained.known(name, self._params[name].double() + found[name].double()))
                    for name in (a, b)
                )
                correction = self._correction(a, mean_a, mean_b).reshape(found[b].shape)
                found[b] = (found[b].double() + correction).to(found[b].dtype)
        return found

    def _correction(self, a: str, mean_a: Tensor, mean_b: Tensor) -> Tensor:
        """The matrix dB, ``[out, r]``."""
        squares = mean_a @ mean_a.T
        along = sum((p * (b_c @ (a_c @ mean_a.T)) for p, a_c, b_c in self._trained.of(a)), -mean_b @ squares)
        ridge = self._rule.ridge * squares.trace() / len(squares)
        damped = squares + ridge * torch.eye(len(squares), dtype=squares.dtype)
        inverse: Tensor = torch.linalg.pinv(damped, hermitian=True)
        return along @ inverse
