"""q-FedAvg: clients with a larger loss count more, so that results differ less between clients.

Li, Sanjabi, Beirami, Smith, Fair Resource Allocation in Federated Learning, arXiv:1905.10497, Algorithm 2, for the
objective Σ_k F_k^{q+1}/(q + 1). With the updates δ_k = w_k − w of a round's clients, their losses F_k and a constant L:

    h_k = q·F_k^{q−1}·L·‖δ_k‖² + F_k^q
    Δ = Σ_k F_k^q·δ_k / Σ_k h_k

These are the paper's Δ_k and h_k divided by L. The term with ‖δ_k‖² shortens the step where the weights F_k^q would
change much. q = 0 is the mean with equal weights, and a large q comes near to the worst client's loss, which
`fedfm.aggregation.afl` minimises by weights of its own. The paper's F_k is the loss at w over all examples of the
client; here it is the mean loss over its local steps, which clients report anyway. The paper takes L = 1/η for the
local learning rate η of SGD.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.base import Contribution, Fold, Rule
from fedfm.aggregation.losses import bounded, spread_of
from fedfm.aggregation.mean import MeanFold
from fedfm.capabilities import CLIENT_FIGURES, INDIVIDUAL_UPDATES
from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views.base import Slices


class QFedAvg(Rule):
    """Clients with a larger training loss count more (q-FedAvg)."""

    rule: Literal["q-fedavg"] = "q-fedavg"
    """Clients with a larger training loss count more, so that results differ less between clients (q-FedAvg)."""
    q: Annotated[float, Field(ge=0, le=20)] = 1.0
    """How much more: weights are losses to the power of q; 0 counts clients alike."""
    lipschitz: Annotated[float, Field(gt=0)] = 1.0
    """L, which shortens steps of large updates; the paper takes 1/η for the learning rate η of local SGD."""

    needs: ClassVar[Mapping[str, str]] = {
        INDIVIDUAL_UPDATES: "the norm of each client's update counts",
        CLIENT_FIGURES: "clients count by their training losses",
    }

    def weight(self, contribution: Contribution) -> float:
        """F_k^q for each draw; 1 where a client predicted nothing, so that its loss is not known."""
        loss = 1.0 if contribution.loss is None else bounded(contribution.loss)
        return float(contribution.copies * loss**self.q)

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> Fold:
        """An empty fold."""
        return QFold(self, spec)


class QFold(Fold):
    """The mean with the weights F_k^q, times Σ F_k^q / Σ h_k."""

    def __init__(self, rule: QFedAvg, spec: Spec) -> None:
        """An empty fold.

        Args:
            rule: whose settings count.
            spec: of the whole tensors.
        """
        self._rule = rule
        self._mean = MeanFold(spec, lambda update, contribution, _: dict.fromkeys(update, rule.weight(contribution)))
        self._weights = self._bounds = 0.0
        """Σ F_k^q and Σ h_k."""
        self._losses: list[float] = []

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Folds in one update."""
        self._mean.add(update, contribution, slices)
        weight, rule = self._rule.weight(contribution), self._rule
        norm = sum(torch.linalg.vector_norm(tensor.double()).item() ** 2 for tensor in update.values())
        self._weights += weight
        self._bounds += weight
        if contribution.loss is not None:
            self._losses.append(bounded(contribution.loss))
            self._bounds += rule.q * weight / bounded(contribution.loss) * rule.lipschitz * norm

    def result(self) -> Params:
        """Δ."""
        share = self._weights / self._bounds if self._bounds else 0.0
        return {name: tensor * share for name, tensor in self._mean.result().items()}

    def figures(self) -> Mapping[str, float]:
        """The spread of the losses."""
        return spread_of(self._losses)
