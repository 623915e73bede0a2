"""O-LoRA: each task of a stream has low-rank directions of its own, which avoid those of the tasks before it.

Wang et al., Orthogonal Subspace Learning for Language Model Continual Learning, arXiv:2310.14152. One LoRA of rank
T·k, A ``[T·k, in]`` and B ``[out, T·k]``, has the k ranks of each of T tasks one after the other. During task t clients
train rows A_t and columns B_t, and the tunable's other tensors, such as the head; the ranks of earlier tasks stay as
they are, and those of later ones add nothing, since their B is zero. Each client minimises

    F_c(w) + λ·Σ_{i<t} ‖A_i·A_tᵀ‖²_F        summed over the matrices that LoRA adapts

so that the directions that task t reads from its inputs are orthogonal to those of earlier tasks. A client gets the
whole tunable and returns its present ranks and the rest, so that of the factors 1/T travels back. ``adapter/`` is an
ordinary LoRA of rank T·k, scaled by α/(T·k).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.aggregation.lora.pairs import pairs
from fedfm.algorithms.base import Algorithm
from fedfm.params import Params


class OLora(Algorithm):
    """Federated averaging of LoRA in which each task of a stream has ranks of its own, orthogonal to earlier ones."""

    name: Literal["o-lora"] = "o-lora"
    """Federated averaging of LoRA in which each task of a stream has ranks of its own, orthogonal to earlier ones."""
    rank: Annotated[int, Field(ge=1, le=100_000)] = 4
    """k: ranks of each task; `tune.r` is k times the number of tasks."""
    strength: Annotated[float, Field(ge=0)] = 0.5
    """λ: how strongly directions of a task are kept away from those of earlier tasks; 0: not at all."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.TASKS: "each task has ranks of its own; set federation.stream",
        capabilities.LOW_RANK_PRODUCT: "the factors of LoRA are divided between tasks",
    }

    @property
    def task_rank(self) -> int:
        """`rank`."""
        return self.rank

    def penalty(self, parameters: Mapping[str, Tensor], trains: Params) -> Tensor:
        """λ·Σ_{i<t} ‖A_i·A_tᵀ‖²_F, over all factors A."""
        total = next(iter(parameters.values())).new_zeros(())
        for name in pairs(parameters):
            rows = trains[name].any(dim=1).nonzero() if name in trains else torch.zeros(1, dtype=torch.int64)
            if not len(rows):
                continue
            first, last = int(rows.min()), int(rows.max()) + 1
            factor = parameters[name]
            total = total + (factor[:first].detach() @ factor[first:last].T).square().sum()
        return self.strength * total
