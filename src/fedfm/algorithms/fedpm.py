"""FedPM: clients train the scores of a mask and send masks; the server estimates each entry's probability from them.

Isik et al., Sparse Random Networks for Communication-Efficient Federated Learning, arXiv:2209.15328, Algorithms 1 and
2, for each score s of a mask:

    s_k ← s, trained on client k's data          m_k ~ Bernoulli(σ(s_k)), sent with one bit
    α ← α + Σ_k m_k,   β ← β + K − Σ_k m_k       the posterior of Beta(α, β)
    θ = (α − 1) / (α + β − 2),   s ← σ⁻¹(θ)      its mode

with α = β = λ0 before round 1 and again after every 1/ρ rounds, where a share ρ of the clients takes part in a round:
in as many rounds each client is heard once. Rounds 1, 1 + 1/ρ, … begin with the prior. θ is kept within [ε, 1 − ε],
since 0 and 1 have infinite scores. Σ_k m_k is K times the mean of the masks by the recipe's rule; clients count alike,
as in the paper, with `aggregate.weights: uniform`. All other tensors, such as a head, are averaged as by FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedfm.algorithms.base import Aggregate, Algorithm, ClientRound, Finished, LocalResult, ServerState
from fedfm.capabilities import (
    BARRIER,
    MASK_SCORES,
    SCORES_SENT,
    SCORES_SENT_AS_MASKS,
    STEP_EACH_ROUND,
    TUNABLE_UPDATES,
    WHOLE_VIEWS,
)
from fedfm.models.mask_scores import are_scores
from fedfm.params import Params, add, full_like


class FedPM(Algorithm):
    """Bayesian aggregation of masks of one bit a weight."""

    name: Literal["fedpm"] = "fedpm"
    """Bayesian aggregation of masks of one bit a weight."""
    prior: Annotated[float, Field(ge=1, le=1e6)] = 1.0
    """λ0: both parameters of the Beta prior; 1 is uniform, and more pulls probabilities towards ½."""
    reset_every: Annotated[int, Field(ge=1)] | None = None
    """Rounds after which the posterior is forgotten; null: all clients over those of a round, rounded."""
    epsilon: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """ε: probabilities stay within [ε, 1 − ε]."""

    needs: ClassVar[Mapping[str, str]] = {
        MASK_SCORES: "it estimates the probability of each entry of a mask",
        SCORES_SENT_AS_MASKS: "the server counts masks",
        WHOLE_VIEWS: "an entry that no client holds would count as dropped",
        BARRIER: "a mask that counts less, because it is late, would count as dropped in part",
        STEP_EACH_ROUND: "clients train on from probabilities, which only the server's step makes of masks",
        TUNABLE_UPDATES: "clients send masks",
    }
    gives = frozenset({SCORES_SENT})

    def start(self, params: Params) -> ServerState:
        """α = β = λ0 for each score; nothing without scores."""
        scores = {name: tensor for name, tensor in params.items() if are_scores(name)}
        return {part: full_like(scores, self.prior) for part in ("alpha", "beta")} if scores else {}

    def client_finish(self, update: Params, at: ClientRound, result: LocalResult) -> Finished:
        """The scores s_k themselves in place of their changes."""
        return Finished({name: at.received[name] + d if are_scores(name) else d for name, d in update.items()})

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        """Scores of the posterior's mode; w + Δ elsewhere."""
        period = self.reset_every or round(1 / aggregate.share)
        posterior = self.start(params) if (aggregate.round - 1) % period == 0 else state
        scores, alpha, beta = Params(), Params(), Params()
        for name, before in posterior.get("alpha", {}).items():
            kept = (aggregate.clients * aggregate.update[name].double()).clamp(0, aggregate.clients)
            a = before.double() + kept
            b = posterior["beta"][name].double() + aggregate.clients - kept
            mode = ((a - 1) / (a + b - 2)).clamp(self.epsilon, 1 - self.epsilon)
            scores[name] = torch.logit(mode).to(params[name].dtype)
            alpha[name], beta[name] = a.to(before.dtype), b.to(before.dtype)
        others = {name: tensor for name, tensor in params.items() if name not in scores}
        stepped = add(others, {name: aggregate.update[name] for name in others})
        return {**stepped, **scores}, {"alpha": alpha, "beta": beta} if alpha else {}
