"""HetLoRA: clients of unlike ranks, weighed by the size of the update that their factors make.

Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models, arXiv:2401.06432, §3
(sparsity-weighted aggregation). With A_c = A_t + ΔA_c and B_c = B_t + ΔB_c, the client's factors after training:

    p_c = ‖B_c·A_c‖_F,   ΔA = Σ p_c·ΔA_c / Σ p_c,   ΔB = Σ p_c·ΔB_c / Σ p_c

for each adapted matrix separately, at each coordinate over the clients whose rank reaches it. The paper pads with zeros
and divides by the sum over all clients instead, which shrinks the last ranks. Tensors that belong to no pair of
factors, such as the head's, are weighed by examples. The norm is computed from r × r matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from fedfm.aggregation.base import Contribution, Rule
from fedfm.aggregation.lora.factors import flat
from fedfm.aggregation.lora.pairs import pairs
from fedfm.aggregation.mean import MeanFold
from fedfm.capabilities import BARRIER, INDIVIDUAL_UPDATES, TUNABLE_UPDATES
from fedfm.models.low_rank import Thin
from fedfm.spec import Spec
from fedfm.views.base import Slices, narrow


class HetLora(Rule):
    """Mean of LoRA factors of unlike ranks, weighed by the norm of each client's B·A."""

    rule: Literal["hetlora"] = "hetlora"
    """Mean of LoRA factors of unlike ranks (`federation.ranks`)."""
    needs: ClassVar[Mapping[str, str]] = {
        BARRIER: "a client's factors after training are the server's at its start plus its update",
        INDIVIDUAL_UPDATES: "a client's weight follows from its factors",
        TUNABLE_UPDATES: "a client's weight follows from its factors",
    }

    weights: Literal["norm", "examples"] = "norm"
    """`norm` weighs a client's factors of a matrix by ‖B·A‖ after training, `examples` by its examples."""

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> MeanFold:
        """An empty fold."""
        return MeanFold(spec, functools.partial(self._weights, params))

    def _weights(
        self, params: Mapping[str, Tensor], update: Mapping[str, Tensor], contribution: Contribution, slices: Slices
    ) -> Mapping[str, float]:
        """The weight of each tensor of one client."""
        weights = dict.fromkeys(update, float(contribution.copies * contribution.examples))
        if self.weights == "norm":
            for a, b in pairs(update).items():
                trained = {
                    name: tensor + update[name]
                    for name, tensor in narrow(params, {name: slices[name] for name in (a, b)}).items()
                }
                weights[a] = weights[b] = contribution.copies * Thin(flat(trained[b]), flat(trained[a])).norm()
        return weights
