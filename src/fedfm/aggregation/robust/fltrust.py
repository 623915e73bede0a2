"""FLTrust: the server trains on a few examples of its own, and trusts updates that point where its own does.

Cao et al., FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping, arXiv:2012.13995, Algorithm 2. With
g_0, the server's update from the same parameters, trained on its root data as a client would train,

    TS_i = max(0, cos(g_i, g_0)),   Δ = Σ TS_i·(‖g_0‖ / ‖g_i‖)·g_i / Σ TS_i

It needs no number of attackers, and withstands a majority of them. The root data, about a hundred examples, must cover
what the clients learn: what it lacks is not trusted. Where no update is trusted, Δ = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedfm.aggregation.base import Rule
from fedfm.aggregation.median import Median
from fedfm.aggregation.robust.base import Compared, ComparingRule
from fedfm.capabilities import BACKBONE_WEIGHTS, BARRIER, ONE_MODEL, TUNABLE_UPDATES, WHOLE_VIEWS


class FlTrust(ComparingRule):
    """Updates count by their cosine with the server's own."""

    rule: Literal["fltrust"] = "fltrust"
    """Updates count by their cosine with one that the server trains on labelled data of its own (`data.root`)."""

    trains_root: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {
        WHOLE_VIEWS: "it compares whole updates",
        ONE_MODEL: "the server trains as a client does",
        BARRIER: "the server's update starts from the parameters of the round",
        BACKBONE_WEIGHTS: "the server trains what the clients train",
        TUNABLE_UPDATES: "it compares updates with the server's",
    }

    @property
    def of_figures(self) -> Rule:
        """The median: the server has no figure of its own."""
        return Median()

    def weights(self, compared: Compared) -> Tensor:
        """TS_i·‖g_0‖/‖g_i‖ over Σ TS_i.

        Raises:
            ValueError: there is no update of the server.
        """
        if not compared.references:
            raise ValueError("no update of the server to compare with")
        products = compared.products
        norms = products.diagonal().clamp(min=0).sqrt()
        inverse = torch.where(norms > 0, 1 / norms.where(norms > 0, 1), 0)
        trust = (products[:, -1] * inverse * inverse[-1]).clamp(min=0)
        trust[-1] = 0
        total = trust.sum()
        return trust * norms[-1] * inverse / total.where(total > 0, 1)
