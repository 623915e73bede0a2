"""Where each client's part lies in what passes through the backbone when several clients train in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """One batch of K clients, their examples one client after the other.

    Attributes:
        rows: examples of each client, [K].
        tokens: tokens of each client, [K], where the blocks read them packed, without padding; else None.
    """

    rows: tuple[int, ...]
    tokens: tuple[int, ...] | None = None

    @property
    def clients(self) -> int:
        """K."""
        return len(self.rows)

    def sizes(self, x: Tensor) -> tuple[int, ...]:
        """How many vectors of ``x`` belong to each client.

        Args:
            x: ``[..., d]``: as many vectors of every example; or, inside packed blocks, one of every token.

        Raises:
            ValueError: ``x`` is neither: the layer sees something that is not the examples' (DeBERTa's relative
                positions).
        """
        count, examples = x.shape[:-1].numel(), sum(self.rows)
        if self.tokens is not None and count == sum(self.tokens):
            return self.tokens
        if count % examples == 0:
            return tuple(rows * (count // examples) for rows in self.rows)
        raise ValueError(f"a stacked layer got {tuple(x.shape)}, which is not made of {examples} examples")


def alike(sizes: Sequence[int]) -> bool:
    """Whether all clients have as many vectors, so that one batched product serves them."""
    return all(size == sizes[0] for size in sizes)


def own_products(x: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    """Each client's vectors times its own matrix: one batched product where clients are alike.

    Args:
        x: ``[..., in]``.
        weights: ``[K, in, out]``.
        sizes: vectors of each client.
    """
    vectors, weights = x.reshape(-1, x.shape[-1]), weights.to(x.dtype)
    if alike(sizes):
        y = torch.bmm(vectors.view(len(sizes), sizes[0], -1), weights)
    else:
        parts = torch.split(vectors, list(sizes))
        y = torch.cat([part @ own for part, own in zip(parts, weights.unbind(), strict=True)])
    return y.view(*x.shape[:-1], -1)


def spread(stack: Tensor, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Each client's vector for every one of its vectors in ``x``: ``[K, d]`` → ``[..., d]`` of the shape of ``x``."""
    counts = torch.tensor(sizes, device=stack.device)
    rows = stack.to(x.dtype).repeat_interleave(counts, dim=0, output_size=sum(sizes))
    return rows.view(*x.shape[:-1], stack.shape[-1])
