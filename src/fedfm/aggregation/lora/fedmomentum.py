"""FedMomentum: the leading part of the exact mean of products stays in the factors, the rest goes into the weights.

FedMomentum, arXiv:2603.08014: U S Vᵀ = Σ p_c·B_c·A_c; B' = U_r·S_r^½, A' = S_r^½·V_rᵀ; W ← W + s·U_rest·S_rest·V_restᵀ.
So the factors keep the direction in which the clients agree, and nothing is lost.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import pad

from fedfm.aggregation.lora.exact import ExactRule
from fedfm.capabilities import WHOLE_VIEWS
from fedfm.models.low_rank import Thin


class FedMomentum(ExactRule):
    """Leading singular part of the exact mean stays in the factors; the rest is added to the frozen weights."""

    needs: ClassVar = {
        **ExactRule.needs,
        WHOLE_VIEWS: "its factors are sorted by size anew in each round, and a part of them means another one",
    }

    rule: Literal["fedmomentum"] = "fedmomentum"
    """Leading singular part of the exact mean stays in the factors; the rest is added to the frozen weights."""

    def renew(self, a: str, product: Thin, factor: Tensor, *, seed: int, round: int) -> Thin | None:  # noqa: A002
        """The leading r singular values, shared alike between B and A."""
        u, s, vt = product.svd(len(factor))
        root, missing = s.sqrt(), len(factor) - len(s)
        return Thin(pad(u * root, (0, missing)), pad(root[:, None] * vt, (0, 0, 0, missing)))
