"""RoLoRA: clients train B in odd rounds and A in even rounds, so that the mean of each round is exact.

Chen et al., Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA, arXiv:2502.01755:

    odd rounds     Σ p_c·B_c·A = (Σ p_c·B_c)·A          A is the server's, the same at every client
    even rounds    Σ p_c·B·A_c = B·(Σ p_c·A_c)          B is the server's

A client gets the current value of both factors and returns the one that it trains. Everything else that the tunable
trains, such as the head, is trained in every round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from fedfm.aggregation.lora.pairs import pairs
from fedfm.aggregation.mean import Weighted
from fedfm.capabilities import LOW_RANK_FACTORS, SAME_ROUND, SHARED_TUNABLE, TUNABLE_UPDATES, WEIGHTED_MEAN
from fedfm.spec import Spec


class RoLora(Weighted):
    """Mean of the factors B and of the factors A in turns."""

    rule: Literal["rolora"] = "rolora"
    """Clients train B of each pair of factors in odd rounds and A in even rounds (RoLoRA): the mean of B·A is exact."""

    period: ClassVar[int] = 2
    gives: ClassVar[frozenset[str]] = frozenset({WEIGHTED_MEAN})
    needs: ClassVar[Mapping[str, str]] = {
        LOW_RANK_FACTORS: "it trains the factors of each pair in turns",
        SHARED_TUNABLE: "a factor that a client keeps for itself would be trained in every round",
        SAME_ROUND: "all clients of a round train the same factor",
        TUNABLE_UPDATES: "clients return the factor that they train",
    }

    def trains(self, spec: Spec, number: int) -> frozenset[str]:
        """All but the factors A in odd rounds; all but the factors B in even rounds."""
        factors = pairs(spec)
        return frozenset(spec) - (frozenset(factors) if number % 2 else frozenset(factors.values()))
