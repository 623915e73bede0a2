"""FedSVD: clients train B; the server splits the mean product into orthonormal rows A and the rest B.

Lee et al., FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA, arXiv:2505.12805:

    B̄ = Σ p_c·B_c,   B̄·A = U·S·Vᵀ,   A ← V_rᵀ,   B ← U_r·S_r

B̄·A has rank r, so that nothing is lost, and the mean of the products is exact. All clients of a round have the same A,
which changes from round to round and is therefore sent. The rows of A span the same space in the whole run: the SVD
turns them, so that the gradients of B stay bounded and the first rows carry most. The first A has orthonormal rows too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from fedfm.aggregation.base import Contribution, Fold
from fedfm.aggregation.lora.factors import flat
from fedfm.aggregation.lora.orthonormal import with_orthonormal_rows
from fedfm.aggregation.lora.pairs import pairs
from fedfm.aggregation.mean import MeanFold, Weighted
from fedfm.capabilities import BARRIER, LASTING_COORDINATES, LOW_RANK_FACTORS, ONE_MODEL, TUNABLE_UPDATES
from fedfm.models.low_rank import Thin
from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views.base import Slices


class FedSvd(Weighted):
    """Mean of the factors B, split anew by an SVD."""

    rule: Literal["fedsvd"] = "fedsvd"
    """Clients train B of each pair of factors; the server makes A orthonormal by an SVD of the mean B·A (FedSVD)."""

    needs: ClassVar[Mapping[str, str]] = {
        LOW_RANK_FACTORS: "it trains one factor of each pair",
        ONE_MODEL: "a factor that a client keeps for itself would not fit the server's other factor",
        BARRIER: "all clients of a round have the same factor A",
        TUNABLE_UPDATES: "clients return the factor that they train",
    }
    takes: ClassVar[Mapping[str, str]] = {
        LASTING_COORDINATES: "an SVD chooses new factors in each round, which may be turned and swapped"
    }

    def trains(self, spec: Spec, number: int) -> frozenset[str]:
        """All but the factors A."""
        return frozenset(spec) - frozenset(pairs(spec))

    def initial(self, params: Params, seed: int) -> Params:
        """The factors A with orthonormal rows."""
        return with_orthonormal_rows(params)

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> FedSvdFold:
        """An empty fold."""
        return FedSvdFold(self.mean(spec), params)


class FedSvdFold(Fold):
    """A running mean, and an SVD of each pair at its end."""

    def __init__(self, mean: MeanFold, params: Mapping[str, Tensor]) -> None:
        self._mean, self._params = mean, params
        self._trained: set[str] = set()

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Folds in one update, as `fedfm.aggregation.base.Fold.add`."""
        self._mean.add(update, contribution, slices)
        self._trained.update(slices)

    def result(self) -> Params:
        """New factors minus w_t, and the mean of all other tensors.

        Raises:
            ValueError: nothing was folded in.
        """
        found = self._mean.result()
        for a, b in self._pairs().items():
            left, right = (flat(self._params[name].double() + found[name].double()) for name in (b, a))
            u, values, vt = Thin(left, right).svd(len(right))
            for name, new in ((a, vt), (b, u * values)):
                before = self._params[name]
                found[name] = (new.reshape(before.shape) - before.double()).to(found[name].dtype)
        return found

    def replaced(self) -> frozenset[str]:
        """The factors of pairs that a client has trained."""
        return frozenset(self._pairs()) | frozenset(self._pairs().values())

    def _pairs(self) -> Mapping[str, str]:
        """Factor A → factor B, of pairs that a client has trained."""
        return {a: b for a, b in pairs(self._params).items() if not self._trained.isdisjoint((a, b))}
