"""EWC: parameters that mattered for earlier tasks are held near the values that they had after them.

Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, arXiv:1612.00796, eq. 3, for clients that
train on one task of a stream after the other. Each client minimises

    F_c(w) + (λ/2)·Σ_t Σ_j F_tj·(w_j − w*_tj)²

over the tasks t that are over. w*_t is the server's model after task t. F_t is the diagonal of its Fisher information:

    F_tj = E_x E_{y ∼ p(y|x, w*_t)} (∂ log p(y|x, w*_t) / ∂w_j)²

with labels y that the model samples, not those of the data (Kunstner et al., arXiv:1905.12558, say why). Clients
estimate it on some of their examples of task t, one by one, and the server takes their mean, weighted by numbers of
examples. The sum over t of quadratic functions is one of them, up to a constant: with F = Σ_t F_t and the
anchor ā_j = Σ_t F_tj·w*_tj / F_j, its gradient is λ·F·(w − ā). So memory and messages do not grow with the number of
tasks: a message has the tunable, F and ā, three times as much as FedAvg's. After the last round of a task, each client
of that round gets the tunable once more and answers with its Fisher information, as large as the tunable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.algorithms.base import Algorithm, At, Groups, ServerState
from fedfm.params import Params, map_params, zeros_like
from fedfm.updates.payload import FISHER


class Ewc(Algorithm):
    """Federated averaging with elastic weight consolidation between the tasks of a stream."""

    name: Literal["ewc"] = "ewc"
    """Federated averaging with elastic weight consolidation between the tasks of a stream."""
    strength: Annotated[float, Field(ge=0)] = 1000.0
    """λ: how strongly parameters are held; 0 is FedAvg. Values from 100 to 10,000 are usual for whole models."""
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Examples on which a client estimates its Fisher information, at most."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.TASK_ENDS: "clients estimate their Fisher information after each task",
        capabilities.TASKS: "it holds what earlier tasks need; set federation.stream",
        capabilities.LABELS: "the model samples a label for each example",
        capabilities.WHOLE_VIEWS: "one Fisher information holds for all clients",
        capabilities.LASTING_COORDINATES: "a coordinate must mean in later tasks what it meant",
        capabilities.INDIVIDUAL_UPDATES: "clients send their Fisher information in the clear",
        capabilities.BACKBONE_WEIGHTS: "what matters for a proxy that changes is not what matters for the next one",
    }
    sent: ClassVar[tuple[str, ...]] = (FISHER, "anchor")
    task_work: ClassVar[str | None] = FISHER

    @property
    def task_facts(self) -> Mapping[str, float]:
        """The number of examples."""
        return {"samples": float(self.samples)}

    def start(self, params: Params) -> ServerState:
        """F = 0."""
        return {FISHER: zeros_like(params), "anchor": zeros_like(params)}

    def sends(self, state: ServerState) -> Groups:
        """F and ā."""
        return {FISHER: state[FISHER], "anchor": state["anchor"]}

    def gradient(self, gradient: Tensor, parameter: Tensor, at: At) -> Tensor:
        """∇F_c + λ·F·(w − ā)."""
        return gradient + self.strength * at.sent[FISHER] * (parameter - at.sent["anchor"])

    def end_task(self, params: Params, mean: Params, state: ServerState) -> ServerState:
        """F ← F + F_t; ā ← (F·ā + F_t·w) / (F + F_t), with the old F; w where both are 0."""
        total = map_params(torch.add, state[FISHER], mean)

        def moved(anchor: Tensor, old: Tensor, new: Tensor, w: Tensor) -> Tensor:
            summed = old + new
            return torch.where(summed > 0, (old * anchor + new * w) / summed.where(summed > 0, 1.0), w)

        return {FISHER: total, "anchor": map_params(moved, state["anchor"], state[FISHER], mean, params)}
