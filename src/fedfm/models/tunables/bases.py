"""Fixed bases of low-rank updates, equal at server and clients: both derive them from what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fedfm.randomness import torch_seed

OVERSAMPLING = 8
"""Directions of the sketch beyond the rank (Halko et al., arXiv:0909.4061, §4.2)."""

POWER_ITERATIONS = 4


def leading_bases(weight: Tensor, rank: int, *, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """The leading singular vectors of a matrix, U ``[out, r]`` and Vᵀ ``[r, in]``, by a keyed randomised SVD.

    Args:
        weight: ``[out, in]``.
        rank: r ≤ min(out, in).
        seed: the recipe's.
        name: of the matrix; key of the sketch.
    """
    with _one_thread(), torch_seed(seed, f"sketch of {name}"):
        sketch = min(rank + OVERSAMPLING, *weight.shape)
        u, _, v = torch.svd_lowrank(weight.double(), q=sketch, niter=POWER_ITERATIONS)
    return u[:, :rank].to(weight.dtype), v[:, :rank].T.to(weight.dtype).contiguous()


def random_basis(size: int, rank: int, *, seed: int, name: str) -> Tensor:
    """Orthonormal columns ``[size, r]``, each such basis equally likely; float64.

    Args:
        size: dimension of the space.
        rank: r ≤ size.
        seed: the recipe's.
        name: key of the draw.
    """
    with _one_thread(), torch_seed(seed, f"basis of {name}"):
        q, r = torch.linalg.qr(torch.randn(size, rank, dtype=torch.float64))
    basis: Tensor = q * r.diagonal().sign()
    return basis


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the number of threads: the bases must be equal to the bit wherever they are made."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
