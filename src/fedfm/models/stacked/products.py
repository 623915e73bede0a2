"""Low-rank products of many clients beside one product of the frozen matrix they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from fedfm.models.stacked.layout import alike


class LowRank(torch.autograd.Function):
    """``y_k = x_k Wᵀ + b + s·(x_k A_kᵀ) B_kᵀ`` for clients k whose vectors lie one after the other.

    Everything is written in place into one result, forward and backward, so that a client costs its own small
    products and no copy (LoRA, arXiv:2106.09685, eq. (3), for K adapters at once).

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
        down = products(x, a.transpose(1, 2), sizes)
        products(down, b.transpose(1, 2), sizes, onto=y, scale=scale)
        ctx.save_for_backward(x, weight, a, b, down)
        ctx.scale, ctx.sizes = scale, sizes
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B."""
        (gradient,) = gradients
        gradient = gradient.contiguous()
        x, weight, a, b, down = ctx.saved_tensors
        scale, sizes = ctx.scale, ctx.sizes
        gradient_down = products(gradient, b, sizes, scale=scale)
        gradient_b = outer(gradient, down, sizes, scale=scale)
        gradient_a = outer(gradient_down, x, sizes)
        gradient_x = None
        if ctx.needs_input_grad[0]:
            gradient_x = gradient @ weight
            products(gradient_down, a, sizes, onto=gradient_x)
        return gradient_x, None, None, gradient_a.to(ctx.dtype), gradient_b.to(ctx.dtype), None, None


def low_rank(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, sizes: Sequence[int]
) -> Tensor:
    """`LowRank` for ``x`` of any shape ``[..., in]``."""
    flat = x.reshape(-1, x.shape[-1])
    y: Tensor = LowRank.apply(flat, weight, bias, a, b, scale, sizes)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


def products(
    x: Tensor, matrices: Tensor, sizes: Sequence[int], *, onto: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """``s · x_k M_k`` for each client, added to ``onto`` in place where it is given.

    Args:
        x: ``[N, i]``.
        matrices: ``[K, i, o]``.
        sizes: vectors of each client.
        onto: ``[N, o]``, contiguous.
        scale: s.

    Returns:
        ``[N, o]``.
    """
    result = x.new_zeros(len(x), matrices.shape[2]) if onto is None else onto
    if alike(sizes):
        stack = (len(sizes), sizes[0])
        result.view(*stack, -1).baddbmm_(x.view(*stack, -1), matrices, alpha=scale)
        return result
    start = 0
    for matrix, size in zip(matrices.unbind(), sizes, strict=True):
        part = slice(start, start := start + size)
        result[part].addmm_(x[part], matrix, alpha=scale)
    return result


def outer(left: Tensor, right: Tensor, sizes: Sequence[int], *, scale: float = 1.0) -> Tensor:
    """``s · left_kᵀ right_k`` for each client: ``[N, o]`` and ``[N, i]`` to ``[K, o, i]``."""
    result = left.new_zeros(len(sizes), left.shape[1], right.shape[1])
    if alike(sizes):
        stack = (len(sizes), sizes[0])
        return result.baddbmm_(left.view(*stack, -1).transpose(1, 2), right.view(*stack, -1), alpha=scale)
    start = 0
    for matrix, size in zip(result.unbind(), sizes, strict=True):
        part = slice(start, start := start + size)
        matrix.addmm_(left[part].T, right[part], alpha=scale)
    return result
