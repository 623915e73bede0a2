"""Ravan: ΔW = (α/r)·Σᵢ sᵢ·Bᵢ Hᵢ Aᵢ over h heads with fixed bases Bᵢ [out, r], Aᵢ [r, in]; only Hᵢ [r, r] and sᵢ train.

Raje et al., Ravan: Multi-Head Low-Rank Adaptation for Federated Fine-Tuning, arXiv:2506.05568, §3. A client starts each
round at sᵢ = 1, trains Hᵢ and sᵢ, and sends the products sᵢ·Hᵢ, in which ΔW is linear: the mean is exact. Bases are
random with orthonormal columns over all heads (the paper's Gram-Schmidt start); where h·r exceeds the dimension, over
each head. H starts at zero.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.capabilities import BACKBONE_WEIGHTS, SGD
from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.bases import random_basis
from fedfm.models.tunables.core import AdaptedMatrix, Core, CoreSettings


class HeadsCore(Core):
    """B = [s₁·B₁H₁, …, s_h·B_hH_h]."""

    parts: ClassVar[tuple[str, ...]] = ("lora_H", "lora_s")
    b: Tensor

    def __init__(self, b: Tensor) -> None:
        """The core of h heads with bases B ``[h, out, r]``."""
        super().__init__()
        self.register_buffer("b", b, persistent=False)

    def forward(self, *trained: Tensor) -> Tensor:
        """B ``[out, h·r]`` from H ``[h, r, r]`` and s ``[h]``."""
        cores, scales = trained
        scaled: Tensor = self.b @ (scales[:, None, None] * cores)  # [h, out, r]
        return scaled.transpose(0, 1).flatten(1)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """H = 0, s = 1."""
        heads, _, rank = self.b.shape
        return weight.new_zeros(heads, rank, rank), weight.new_ones(heads)

    @staticmethod
    def folded(trained: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hᵢ ← sᵢ·Hᵢ, sᵢ ← 1."""
        cores, scales = trained["lora_H"], trained["lora_s"]
        return {"lora_H": scales[:, None, None] * cores, "lora_s": torch.ones_like(scales)}


class Ravan(CoreSettings):
    """Several trained r × r matrices with trained scales, between fixed bases of each weight matrix."""

    needs = {BACKBONE_WEIGHTS: "fixed bases belong to the matrices of the backbone"}
    takes = {SGD: "clients train a matrix and its scale, and send their product"}

    kind: Literal["ravan"] = "ravan"
    """Several trained r × r matrices with trained scales, between fixed bases of each weight matrix."""
    heads: Annotated[int, Field(ge=1, le=1000)] = 4
    """Heads h of each matrix; the update has rank h·r at most."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """Ravan."""

        def core(matrix: AdaptedMatrix) -> tuple[HeadsCore, Tensor]:
            out, into = matrix.weight.shape
            b = self._bases(out, seed=seed, name=f"{matrix.name}, outputs").to(matrix.weight.dtype)
            a = self._bases(into, seed=seed, name=f"{matrix.name}, inputs").to(matrix.weight.dtype)
            return HeadsCore(b), a.mT.flatten(0, 1)

        return self.attach_cores(backbone, core, heads=self.heads, task_type=task_type, seed=seed)

    def _bases(self, size: int, *, seed: int, name: str) -> Tensor:
        """The heads' bases ``[h, size, r]``."""
        if self.heads * self.r <= size:
            whole = random_basis(size, self.heads * self.r, seed=seed, name=name)
            return whole.view(size, self.heads, self.r).transpose(0, 1).contiguous()
        return torch.stack(
            [random_basis(size, self.r, seed=seed, name=f"{name}, head {head}") for head in range(self.heads)]
        )
