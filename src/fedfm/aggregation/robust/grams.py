"""Scalar products of a round's updates, added up tensor by tensor from the disk, and distances from them.

With G[i, j] = ⟨x_i, x_j⟩, ‖x_i − x_j‖² = G[i, i] + G[j, j] − 2·G[i, j]. Linear combinations y = M·x have the Gram
matrix M·G·Mᵀ, so what mixes updates needs no second look at them.

Of a pair of LoRA factors, updates can be compared by what they do to the weights, the change of the product B·A:

    B_i·A_i − B·A = L_i·R_i,   L_i = [B_i, ΔB_i],   R_i = [ΔA_i; A],   ⟨L_i·R_i, L_j·R_j⟩ = Σ (L_iᵀ·L_j) ∘ (R_i·R_jᵀ)

This is the same for all factors with the same product, such as (B·c, A/c), and costs O(r²·(in + out)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fedfm.aggregation.gathered import AT_ONCE, Gathered

Factors = tuple[Tensor, Tensor]
"""L ``[out, k]`` and R ``[k, in]`` of a product, float64."""


def gram(gathered: Gathered, names: Iterable[str]) -> Tensor:
    """G of the updates' tensors of these names, ``[updates, updates]`` in float64; what is not held counts as 0."""
    total = torch.zeros(len(gathered), len(gathered), dtype=torch.float64)
    for name in names:
        for piece in gathered.pieces(name):
            values = piece.double().nan_to_num_(0.0)
            total += values @ values.T
    return (total + total.T) / 2  # a matrix product need not be symmetric to the last bit


def gram_of_products(read: Callable[[int], Factors], count: int) -> Tensor:
    """⟨L_i·R_i, L_j·R_j⟩ of products of one shape, ``[count, count]``.

    Args:
        read: the product of a number from 0 on; called several times, for a block of products at a time.
        count: how many products there are, at least one.
    """
    total = torch.zeros(count, count, dtype=torch.float64)
    left, right = read(0)
    size = max(1, AT_ONCE // max(1, left.numel() + right.numel()))
    for start in range(0, count, size):
        rows = _stacked(read, range(start, min(start + size, count)))
        for other in range(0, start + 1, size):
            columns = rows if other == start else _stacked(read, range(other, other + size))
            block = _products_of(rows, columns)
            total[start : start + size, other : other + size] = block
            total[other : other + size, start : start + size] = block.T
    return total


def _stacked(read: Callable[[int], Factors], numbers: range) -> Factors:
    """Lᵀ ``[products, k, out]`` and R ``[products, k, in]``."""
    block = [read(number) for number in numbers]
    return torch.stack([left.T for left, _ in block]), torch.stack([right for _, right in block])


def _products_of(rows: Factors, columns: Factors) -> Tensor:
    found = torch.empty(len(rows[0]), len(columns[0]), dtype=torch.float64)
    for number, (left, right) in enumerate(zip(*rows, strict=True)):
        found[number] = ((left @ columns[0].mT) * (right @ columns[1].mT)).sum((1, 2))
    return found


def squared_distances(products: Tensor) -> Tensor:
    """‖x_i − x_j‖² from G, ``[n, n]``; exactly 0 on the diagonal."""
    squares = products.diagonal()
    found = (squares[:, None] + squares - 2 * products).clamp_(min=0)
    found.fill_diagonal_(0)
    return found


def distances_to(weights: Tensor, products: Tensor) -> Tensor:
    """‖x_i − Σ_j c_j·x_j‖ for each i, ``[n]``, from c ``[n]`` and G."""
    across = products @ weights
    return (products.diagonal() - 2 * across + weights @ across).clamp(min=0).sqrt()
