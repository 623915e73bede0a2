"""Products of thin factors, L·R with L ``[out, k]`` and R ``[k, in]``: sum, norm, SVD without the product itself.

A sum of products is the product of their stacks: Σ_c p_c·B_c·A_c = [B_1 … B_K]·[p_1·A_1; …; p_K·A_K]. With the QR
decompositions L = Q_L·T_L and Rᵀ = Q_R·T_R it is Q_L·(T_L·T_Rᵀ)·Q_Rᵀ, so that its singular values are those of a k × k
matrix. All of it is exact, in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

SLACK = 2
"""A sum is brought back to the smaller dimension once it is so many times as wide, not with each term."""


@dataclass(frozen=True)
class Thin:
    """A matrix L·R.

    Attributes:
        left: L, ``[out, k]``.
        right: R, ``[k, in]``.
    """

    left: Tensor
    right: Tensor

    @classmethod
    def sum_of(cls, terms: Iterable[tuple[float, Tensor, Tensor]]) -> Thin:
        """Σ p·B·A of terms (p, A, B); k is the smaller dimension at most.

        Raises:
            ValueError: there are no terms.
        """
        total: Thin | None = None
        for weight, a, b in terms:
            term = cls(b, weight * a)
            total = term if total is None else (total + term)._bounded(SLACK)
        if total is None:
            raise ValueError("no products to add up")
        return total._bounded(1)

    def __add__(self, other: Thin) -> Thin:
        return Thin(torch.cat([self.left, other.left], 1), torch.cat([self.right, other.right]))

    def __sub__(self, other: Thin) -> Thin:
        return self + Thin(other.left, -other.right)

    def norm(self) -> float:
        """‖L·R‖_F."""
        return float((_triangle(self.left) @ _triangle(self.right.T).T).norm())

    def svd(self, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The ``rank`` largest singular triples, or all: U ``[out, n]``, values ``[n]``, Vᵀ ``[n, in]`` with n ≤ k."""
        (q_left, t_left), (q_right, t_right) = torch.linalg.qr(self.left), torch.linalg.qr(self.right.T)
        u, values, vt = torch.linalg.svd(t_left @ t_right.T, full_matrices=False)
        return q_left @ u[:, :rank], values[:rank], vt[:rank] @ q_right.T

    def compressed(self, tolerance: float = 0.0) -> Thin:
        """The same matrix with as few ranks as it has.

        Args:
            tolerance: singular values up to it count as zero, as do those below float64's precision.
        """
        u, values, vt = self.svd()
        precision = float(values.max()) * max(len(u), vt.shape[1]) * torch.finfo(values.dtype).eps if len(values) else 0
        kept = values > max(precision, tolerance)
        root = values[kept].sqrt()
        return Thin(u[:, kept] * root, root[:, None] * vt[kept])

    def _bounded(self, slack: int) -> Thin:
        """The same with k at most the smaller dimension, where it is more than ``slack`` times that."""
        (out, k), size = self.left.shape, self.right.shape[1]
        if k <= slack * min(out, size):
            return self
        if out <= size:
            q, t = torch.linalg.qr(self.left.T)
            return Thin(t.T, q.T @ self.right)
        q, t = torch.linalg.qr(self.right)
        return Thin(self.left @ q, t)


def _triangle(columns: Tensor) -> Tensor:
    """T of columns = Q·T."""
    triangle: Tensor = torch.linalg.qr(columns, mode="r")[1]
    return triangle
