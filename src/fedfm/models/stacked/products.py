"""Low-rank products of many clients, added to one product with the frozen matrix that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from fedfm.models.stacked.layout import alike

JOINED_RANKS = 32
"""Ranks per product in bfloat16: more ranks would multiply more zeros, fewer would need more products."""


class LowRankProduct(torch.autograd.Function):
    """``y_k = x_k Wᵀ + b + s·(x_k A_kᵀ) B_kᵀ`` for clients k, whose vectors are consecutive.

    The low-rank products are added in place to the shared product, so that a client needs only its small products and
    no copy (LoRA, arXiv:2106.09685, eq. (3), for K adapters at once). Clients with the same number of vectors share
    batched products; others have separate products, or products in groups if that is faster.

    Shapes: x ``[N, in]``, W ``[out, in]``, b ``[out]`` or None, A ``[K, r, in]``, B ``[K, out, r]``; ``sizes`` adds up
    to N. W and b get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
        sizes: Sequence[int],
    ) -> Tensor:
        """The products, in the precision of ``x``."""
        y = linear(x, weight, bias)
        ctx.dtype, a, b = a.dtype, a.to(x.dtype), b.to(x.dtype)
        if alike(sizes):
            down = [torch.bmm(_by_client(x, sizes), a.mT)]
            _by_client(y, sizes).baddbmm_(down[0], b.mT, alpha=scale)
        else:
            down = []
            for group in _grouped(tuple(sizes), a):
                down.append(group.own(x[group.vectors] @ a[group.clients].flatten(0, 1).T))
                y[group.vectors].addmm_(down[-1], b[group.clients].mT.flatten(0, 1), alpha=scale)
        ctx.save_for_backward(x, weight, a, b, *down)
        ctx.scale, ctx.sizes = scale, sizes
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B."""
        gradient = gradients[0].contiguous()
        x, weight, a, b, *down = ctx.saved_tensors
        gradient_x = gradient @ weight if ctx.needs_input_grad[0] else None
        gradient_a, gradient_b = torch.empty_like(a), torch.empty_like(b)
        if alike(ctx.sizes):
            own = _by_client(gradient, ctx.sizes)
            gradient_down = own @ b * ctx.scale
            torch.bmm(own.mT, down[0], out=gradient_b)
            torch.bmm(gradient_down.mT, _by_client(x, ctx.sizes), out=gradient_a)
            if gradient_x is not None:
                _by_client(gradient_x, ctx.sizes).baddbmm_(gradient_down, a)
        else:
            for group, part in zip(_grouped(tuple(ctx.sizes), a), down, strict=True):
                own, clients = gradient[group.vectors], group.clients
                gradient_down = group.own(own @ b[clients].mT.flatten(0, 1).T) * ctx.scale
                gradient_b[clients] = (part.T @ own).view(-1, *b.mT.shape[1:]).mT
                gradient_a[clients] = (gradient_down.T @ x[group.vectors]).view(-1, *a.shape[1:])
                if gradient_x is not None:
                    gradient_x[group.vectors].addmm_(gradient_down, a[clients].flatten(0, 1))
        gradient_b *= ctx.scale
        return gradient_x, None, None, gradient_a.to(ctx.dtype), gradient_b.to(ctx.dtype), None, None


def low_rank(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, sizes: Sequence[int]
) -> Tensor:
    """`LowRankProduct` for ``x`` of any shape ``[..., in]``."""
    flat = x.reshape(-1, x.shape[-1])
    y: Tensor = LowRankProduct.apply(flat, weight, bias, a, b, scale, sizes)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


def _by_client(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """``[K·n, d]`` → ``[K, n, d]``, a view."""
    return x.view(len(sizes), sizes[0], -1)


@dataclass(frozen=True)
class _ClientGroup:
    """Consecutive clients whose low-rank products are computed as one: all their ranks with all their vectors.

    Attributes:
        vectors: the slice of their vectors.
        clients: the slice of their numbers.
        mask: ``[n, G·r]``, 1 if the rank belongs to the client of the vector, else 0; None for a single client.
    """

    vectors: slice
    clients: slice
    mask: Tensor | None

    def own(self, down: Tensor) -> Tensor:
        """Sets the products ``[n, G·r]`` of vectors with ranks of other clients to zero, in place."""
        return down if self.mask is None else down.mul_(self.mask)


def _grouped(sizes: tuple[int, ...], a: Tensor) -> list[_ClientGroup]:
    rank = a.shape[1]
    together = max(1, JOINED_RANKS // rank) if a.dtype == torch.bfloat16 else 1
    return _groups(sizes, rank, together, a.dtype, a.device)


@lru_cache(maxsize=8)  # all layers of a step use the same groups
def _groups(
    sizes: tuple[int, ...], rank: int, together: int, dtype: torch.dtype, device: torch.device
) -> list[_ClientGroup]:
    ends, groups = [0, *accumulate(sizes)], []
    for start in range(0, len(sizes), together):
        clients = slice(start, min(start + together, len(sizes)))
        mask, count = None, clients.stop - clients.start
        if count > 1:
            parts = [torch.ones(size, rank, dtype=dtype) for size in sizes[clients]]
            mask = torch.block_diag(*parts).to(device)  # type: ignore[no-untyped-call]
        groups.append(_ClientGroup(slice(ends[start], ends[clients.stop]), clients, mask))
    return groups
