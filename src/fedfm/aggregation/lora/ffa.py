"""FFA-LoRA: every client has the same A for the whole run and trains B, so that the mean of the factors B is exact.

Sun et al., Improving LoRA in Privacy-preserving Federated Learning, arXiv:2403.12313:

    Σ p_c·B_c·A_0 = (Σ p_c·B_c)·A_0

A_0 is drawn from the run's seed at the server and at each client, and is never sent. Everything else that the tunable
trains, such as the head, is trained and averaged as usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from fedfm.aggregation.lora.orthonormal import with_orthonormal_rows
from fedfm.aggregation.lora.pairs import pairs
from fedfm.aggregation.mean import Weighted
from fedfm.capabilities import LOW_RANK_FACTORS, SHARED_TUNABLE, TUNABLE_UPDATES, WEIGHTED_MEAN
from fedfm.params import Params
from fedfm.spec import Spec


class FfaLora(Weighted):
    """Mean of the factors B; A stays as initialised."""

    rule: Literal["ffa"] = "ffa"
    """Clients train B of each pair of factors, and A stays as initialised (FFA-LoRA): the mean of B·A is exact."""
    initial_a: Literal["random", "orthonormal"] = "random"
    """The fixed A: `random` as the tunable draws it, or `orthonormal`: the same with orthonormal rows."""

    gives: ClassVar[frozenset[str]] = frozenset({WEIGHTED_MEAN})
    needs: ClassVar[Mapping[str, str]] = {
        LOW_RANK_FACTORS: "it fixes one factor of each pair",
        SHARED_TUNABLE: "a factor that a client keeps for itself would be trained, whichever is fixed",
        TUNABLE_UPDATES: "clients return the factor that they train",
    }

    def trains(self, spec: Spec, number: int) -> frozenset[str]:
        """All but the factors A."""
        return frozenset(spec) - self.fixed(spec)

    def fixed(self, spec: Spec) -> frozenset[str]:
        """The factors A."""
        return frozenset(pairs(spec))

    def initial(self, params: Params, seed: int) -> Params:
        """The factors A as `initial_a` says."""
        return params if self.initial_a == "random" else with_orthonormal_rows(params)
