"""Where each client's part lies in what passes through the backbone when several clients train in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def each_client(function: Callable[..., Tensor], x: Tensor, sizes: Sequence[int], *stacks: Tensor | None) -> Tensor:
    """``function`` of each client's vectors ``[n_k, d]`` and its own tensors, joined in the shape of ``x``.

    Args:
        function: (vectors, a tensor of each stack) → vectors.
        x: ``[..., d]``.
        sizes: vectors of each client.
        stacks: ``[K, ...]`` each, or None for what the layer lacks.
    """
    parts = torch.split(x.reshape(-1, x.shape[-1]), list(sizes))
    own = [[None] * len(parts) if stack is None else list(stack.to(x.dtype).unbind()) for stack in stacks]
    joined = torch.cat([function(part, *tensors) for part, *tensors in zip(parts, *own, strict=True)])
    return joined.view(*x.shape[:-1], joined.shape[-1])


def spread(stack: Tensor, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Each client's vector for every one of its vectors in ``x``: ``[K, d]`` → ``[..., d]`` of the shape of ``x``."""
    counts = torch.tensor(sizes, device=stack.device)
    rows = stack.to(x.dtype).repeat_interleave(counts, dim=0, output_size=sum(sizes))
    return rows.view(*x.shape[:-1], stack.shape[-1])
