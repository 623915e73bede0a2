"""FedRot-LoRA: each client's factors are turned towards the server's before they are averaged.

Zhang et al., FedRot-LoRA: Mitigating Rotational Misalignment in Federated LoRA, arXiv:2602.23638. For an orthogonal Q,
(B_c·Q)·(Qᵀ·A_c) = B_c·A_c: turning changes a client's factors, and not what they do. With the server's factors A_t and
B_t as the reference, Q is the rotation (det Q = 1) that minimises

    odd rounds     ‖Qᵀ·A_c − A_t‖_F        from the SVD of A_c·A_tᵀ
    even rounds    ‖B_c·Q − B_t‖_F         from the SVD of B_cᵀ·B_t

(orthogonal Procrustes), and a part of it is applied: the rotation that is nearest to (1 − λ)·I + λ·Q. Where B_t = 0, as
in round 1, nothing is turned. Then the factors are averaged, as everything else is. Of a client of a smaller rank, the
ranks that it has are turned among each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.base import Contribution, Fold
from fedfm.aggregation.lora.factors import flat
from fedfm.aggregation.lora.pairs import pairs
from fedfm.aggregation.mean import MeanFold, Weighted
from fedfm.capabilities import BARRIER, INDIVIDUAL_UPDATES, LOW_RANK_FACTORS, ONE_MODEL, TUNABLE_UPDATES
from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views.base import Slices, narrow


class FedRot(Weighted):
    """Mean of the factors, each client's turned towards the server's."""

    rule: Literal["fedrot"] = "fedrot"
    """Mean of the factors, each client's turned towards the server's by an orthogonal matrix, which leaves its B·A as
    it is (FedRot-LoRA)."""
    softness: Annotated[float, Field(ge=0, le=1)] = 0.5
    """λ: how much of the rotation is applied; 0 is the plain mean, 1 the whole rotation."""
    reference: Literal["alternate", "a", "b"] = "alternate"
    """The factor that a rotation aligns: `a`, `b`, or both in turns, A in odd rounds."""

    needs: ClassVar[Mapping[str, str]] = {
        LOW_RANK_FACTORS: "it turns both factors of each pair",
        ONE_MODEL: "it turns both factors of each client",
        BARRIER: "a client's factors after training are the server's at its start plus its update",
        INDIVIDUAL_UPDATES: "it turns the factors of each client",
        TUNABLE_UPDATES: "clients return the factors that they train",
    }

    def in_round(self, number: int) -> Self:
        """The rule with the factor that this round aligns."""
        reference = "a" if number % 2 else "b"
        return self.model_copy(update={"reference": reference}) if self.reference == "alternate" else self

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> FedRotFold:
        """An empty fold."""
        return FedRotFold(self, self.mean(spec), params)


class FedRotFold(Fold):
    """A running mean of turned factors."""

    def __init__(self, rule: FedRot, mean: MeanFold, params: Mapping[str, Tensor]) -> None:
        self._rule, self._mean, self._params = rule, mean, params

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Folds in one update, as `fedfm.aggregation.base.Fold.add`."""
        turned = dict(update)
        for a, b in pairs(update).items():
            turned |= self._turned(a, b, update, slices)
        self._mean.add(turned, contribution, slices)

    def result(self) -> Params:
        """The mean.

        Raises:
            ValueError: nothing was folded in.
        """
        return self._mean.result()

    def _turned(self, a: str, b: str, update: Mapping[str, Tensor], slices: Slices) -> Params:
        """The update that leads to Qᵀ·A_c and B_c·Q."""
        before = narrow(self._params, {name: slices[name] for name in (a, b)})
        if not before[b].any():
            return {}
        after = {name: before[name].double() + update[name].double() for name in (a, b)}
        a_c, b_c, a_t, b_t = (flat(tensor) for tensor in (after[a], after[b], before[a], before[b]))
        q = softened(rotation(a_c @ a_t.T if self._rule.reference != "b" else b_c.T @ b_t), self._rule.softness)
        new = {a: q.T @ a_c, b: b_c @ q}
        return {
            name: (tensor.reshape(before[name].shape) - before[name].double()).to(update[name].dtype)
            for name, tensor in new.items()
        }


def rotation(products: Tensor) -> Tensor:
    """The rotation Q with the largest tr(Qᵀ·P), which aligns best; P is A_c·A_tᵀ or B_cᵀ·B_t, ``[r, r]``."""
    u, _, vt = torch.linalg.svd(products)
    if torch.linalg.det(u @ vt) < 0:  # a reflection would cancel what the clients agree in
        u = torch.cat([u[:, :-1], -u[:, -1:]], 1)
    q: Tensor = u @ vt
    return q


def softened(q: Tensor, softness: float) -> Tensor:
    """The rotation that is nearest to (1 − λ)·I + λ·Q."""
    identity = torch.eye(len(q), dtype=q.dtype)
    return q if softness == 1 else rotation((1 - softness) * identity + softness * q)
