"""How predictions of several models on the same examples become one: averages of logits or of probabilities.

With weights a_c that sum to 1 over the cohort S, logits z_c [N, K] and p_c = softmax(z_c):

- `logits`: z* = Σ_c a_c·z_c, the average of FedDF (Lin et al., arXiv:2006.07242) and FedMD (Li and Wang,
  arXiv:1910.03581);
- `probabilities`: softmax(z*) = Σ_c a_c·p_c, simple aggregation in DS-FL (Itahara et al., arXiv:2008.06180);
- `sharpened`: softmax(z*) = softmax( Σ_c a_c·p_c / τ ), entropy reduction aggregation (ERA) in DS-FL.

The weights are all equal, or by examples, or for each public example by how decided a client is: a_c(n) ∝ Var_k z_c(n),
the variance of its logits over the classes (Cho et al., Fed-ET, arXiv:2204.12703).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation import Contribution
from fedfm.registry import Choice
from fedfm.settings import Settings


class PredictionAverage(Settings):
    """What of each model's predictions is averaged, and what their average says."""

    kind: str

    def averaged(self, logits: Tensor) -> Tensor:
        """What is averaged, of one model's logits ``[N, K]``."""
        raise NotImplementedError

    def logits(self, average: Tensor) -> Tensor:
        """The logits ``[N, K]`` that a weighted average of `averaged` stands for."""
        raise NotImplementedError


class Logits(PredictionAverage):
    """The mean of the logits."""

    kind: Literal["logits"] = "logits"
    """The mean of the logits (FedDF, FedMD). A model with larger logits counts more."""

    def averaged(self, logits: Tensor) -> Tensor:
        """They are."""
        return logits

    def logits(self, average: Tensor) -> Tensor:
        """They are."""
        return average


class Probabilities(PredictionAverage):
    """The mean of the probabilities."""

    kind: Literal["probabilities"] = "probabilities"
    """The mean of the probabilities. No model can outweigh the others, however large its logits are."""

    def averaged(self, logits: Tensor) -> Tensor:
        """softmax(z)."""
        return logits.softmax(-1)

    def logits(self, average: Tensor) -> Tensor:
        """log p̄; a probability that is zero in float64 counts as its smallest number."""
        return average.clamp(min=torch.finfo(average.dtype).tiny).log()


class Sharpened(PredictionAverage):
    """Entropy reduction aggregation of DS-FL."""

    kind: Literal["sharpened"] = "sharpened"
    """The mean of the probabilities, sharpened by a softmax at a low temperature (ERA of DS-FL, arXiv:2008.06180)."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """τ: the lower, the more decided; an error of the mean is then taught with more certainty."""

    def averaged(self, logits: Tensor) -> Tensor:
        """softmax(z)."""
        return logits.softmax(-1)

    def logits(self, average: Tensor) -> Tensor:
        """p̄ / τ."""
        return average / self.temperature


COMBINATIONS: dict[str, type[PredictionAverage]] = {
    "logits": Logits,
    "probabilities": Probabilities,
    "sharpened": Sharpened,
}

AnyPredictionAverage = Annotated[PredictionAverage, Choice(COMBINATIONS, "kind", "fedfm.combinations")]

Weighing = Callable[[Tensor, Contribution], Tensor]
"""Logits ``[N, K]`` of a client and what it contributed → its weights, ``[N, 1]``."""

WEIGHTS: Mapping[str, Weighing] = {
    "uniform": lambda z, of: z.new_full((len(z), 1), of.copies),
    "examples": lambda z, of: z.new_full((len(z), 1), of.copies * of.examples),
    "variance": lambda z, of: of.copies * z.var(-1, correction=0, keepdim=True),
}


class Consensus:
    """The running weighted average of a round's predictions, in float64."""

    def __init__(self, combination: PredictionAverage, weigh: Weighing) -> None:
        """An empty average."""
        self._combination, self._weigh = combination, weigh
        self._total: Tensor | None = None
        self._weight: Tensor | None = None

    def add(self, logits: Tensor, contribution: Contribution) -> None:
        """Adds a client's logits ``[N, K]``."""
        exact = logits.double()
        weight = self._weigh(exact, contribution)
        part = weight * self._combination.averaged(exact)
        self._total = part if self._total is None or self._weight is None else self._total + part
        self._weight = weight if self._weight is None else self._weight + weight

    def logits(self, teacher: Tensor | None = None, share: float = 0.0) -> Tensor | None:
        """float32 ``[N, K]``: what all say; None where nothing was added.

        Args:
            teacher: logits of a model at the server.
            share: its weight; the clients together have the rest.
        """
        if self._total is None or self._weight is None:
            return None
        tiny = torch.finfo(torch.float64).tiny  # where all clients weigh nothing, all classes are alike
        average = self._total / self._weight.clamp(min=tiny)
        if teacher is not None:
            average = (1 - share) * average + share * self._combination.averaged(teacher.double())
        return self._combination.logits(average).float()
