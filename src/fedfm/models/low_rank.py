"""Algebra of low-rank products B·A from their thin factors; the d × d matrix is never made."""

from __future__ import annotations

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""B ``[out, k]`` and A ``[k, in]``."""


def singular(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The SVD of B·A: U ``[out, n]``, S ``[n]``, Vᵀ ``[n, in]`` with n ≤ k, by two QRs and the SVD of a core.

    Args:
        b: ``[out, k]``, float64.
        a: ``[k, in]``, float64.
    """
    q, r = torch.linalg.qr(b)
    p, t = torch.linalg.qr(a.T)
    u, s, vt = torch.linalg.svd(r @ t.T, full_matrices=False)
    return q @ u, s, vt @ p.T


def compressed(b: Tensor, a: Tensor, tolerance: float = 0.0) -> Factors:
    """Factors of the same product with as few ranks as it has.

    Args:
        b: ``[out, k]``, float64.
        a: ``[k, in]``, float64.
        tolerance: singular values up to it count as zero, as do those below float64's precision.
    """
    u, s, vt = singular(b, a)
    precision = float(s.max()) * max(b.shape[0], a.shape[1]) * torch.finfo(s.dtype).eps if len(s) else 0.0
    kept = s > max(precision, tolerance)
    root = s[kept].sqrt()
    return u[:, kept] * root, root[:, None] * vt[kept]


def product_norm(b: Tensor, a: Tensor) -> float:
    """‖B·A‖_F = √tr((BᵀB)(AAᵀ)).

    Args:
        b: ``[out, k]``.
        a: ``[k, in]``.
    """
    return float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt())
