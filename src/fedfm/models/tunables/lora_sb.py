"""LoRA-SB, the tunable of Fed-SB: ΔW = (α/r)·U R Vᵀ with fixed U [out, r], Vᵀ [r, in]; only R [r, r] trains.

Singhal et al., Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in (Private) Federated LoRA
Fine-Tuning, arXiv:2502.15436, §3. The paper takes the bases from the SVD of a first gradient on data, which a client
would have to send; here they are the leading singular vectors of W, as in LoRA-XS (Bałazy et al., arXiv:2405.17604, §3,
without Σ in B, so that ‖ΔW‖ = (α/r)·‖R‖), or random. R starts at zero. The mean over clients is exact under any rule
that is linear.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.bases import leading_bases, random_basis
from fedfm.models.tunables.core import AdaptedMatrix, Core, CoreSettings


class SquareCore(Core):
    """B = U R."""

    u: Tensor

    def __init__(self, u: Tensor) -> None:
        """The core of a basis U ``[out, r]``."""
        super().__init__()
        self.register_buffer("u", u, persistent=False)

    def forward(self, *trained: Tensor) -> Tensor:
        """U R."""
        return self.u @ trained[0]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Zero."""
        return weight.new_zeros(self.u.shape[1], self.u.shape[1])


class LoraSb(CoreSettings):
    """A trained r × r matrix between fixed bases of each weight matrix."""

    kind: Literal["lora-sb"] = "lora-sb"
    """A trained r × r matrix between fixed bases of each weight matrix (Fed-SB)."""
    basis: Literal["weight", "random"] = "weight"
    """The fixed bases: leading singular vectors of the `weight`, or `random` orthonormal ones."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """LoRA-SB."""

        def core(matrix: AdaptedMatrix) -> tuple[SquareCore, Tensor]:
            weight, name = matrix.weight, matrix.name
            if self.basis == "weight":
                left, right = leading_bases(weight, self.r, seed=seed, name=name)
                return SquareCore(left), right
            out, into = weight.shape
            u = random_basis(out, self.r, seed=seed, name=f"{name}, outputs")
            v = random_basis(into, self.r, seed=seed, name=f"{name}, inputs")
            return SquareCore(u.to(weight.dtype)), v.T.to(weight.dtype)

        return self.attach_cores(backbone, core, heads=1, task_type=task_type, seed=seed)
