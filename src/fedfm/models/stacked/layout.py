"""Layout of a batch of several clients that train in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class UnstackableError(Exception):
    """A tunable cannot be stacked; the text says why."""


@dataclass(frozen=True)
class Layout:
    """One batch of K clients, in which the examples of each client are consecutive.

    Attributes:
        rows: number of examples of each client, [K].
        tokens: number of tokens of each client, [K], if the blocks read packed tokens without padding; otherwise None.
    """

    rows: tuple[int, ...]
    tokens: tuple[int, ...] | None = None

    @property
    def clients(self) -> int:
        """The number of clients, K."""
        return len(self.rows)

    def sizes(self, x: Tensor) -> tuple[int, ...]:
        """The number of vectors of ``x`` that belong to each client.

        Args:
            x: ``[..., d]``: the same number of vectors for each example; or, inside packed blocks, the same number for
                each token: ``[1, N, ..., d]``.

        Raises:
            ValueError: ``x`` has another number of vectors: the layer reads a tensor that is shared by all examples
                (DeBERTa's relative positions).
        """
        count, examples = x.shape[:-1].numel(), sum(self.rows)
        if self.tokens is not None and count == sum(self.tokens):
            return self.tokens
        if self.tokens is not None and x.shape[:2] == (1, sum(self.tokens)):  # heads of each token (Qwen3's norms)
            return tuple(tokens * (count // sum(self.tokens)) for tokens in self.tokens)
        if count % examples == 0:
            return tuple(rows * (count // examples) for rows in self.rows)
        raise ValueError(f"a stacked layer got shape {tuple(x.shape)}, which cannot be split among {examples} examples")


def alike(sizes: Sequence[int]) -> bool:
    """Whether all clients have the same number of vectors, so that one batched product computes all of them."""
    return all(size == sizes[0] for size in sizes)


def own_products(x: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    """Multiplies each client's vectors with its own matrix; in one batched product if all sizes are equal.

    Args:
        x: ``[..., in]``.
        weights: ``[K, in, out]``.
        sizes: number of vectors of each client.
    """
    vectors, weights = x.reshape(-1, x.shape[-1]), weights.to(x.dtype)
    if alike(sizes):
        y = torch.bmm(vectors.view(len(sizes), sizes[0], -1), weights)
    else:
        parts = torch.split(vectors, list(sizes))
        y = torch.cat([part @ own for part, own in zip(parts, weights.unbind(), strict=True)])
    return y.view(*x.shape[:-1], -1)


def spread(stack: Tensor, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Repeats each client's vector for all its vectors in ``x``: ``[K, d]`` → ``[..., d]``, as many as ``x`` has."""
    counts = torch.tensor(sizes, device=stack.device)
    rows = stack.to(x.dtype).repeat_interleave(counts, dim=0, output_size=sum(sizes))
    return rows.view(*x.shape[:-1], stack.shape[-1])
