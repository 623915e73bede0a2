"""The factors of low-rank updates in a tunable: which tensors belong together, and the norm of their product."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fedfm.models import low_rank

_FACTORS = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}


def pairs(names: Iterable[str]) -> dict[str, str]:
    """Name of each factor A → name of its factor B, as PEFT names them."""
    known = set(names)
    found = {}
    for name in known:
        for first, second in _FACTORS.items():
            partner = ".".join(second if part == first else part for part in name.split("."))
            if partner != name and partner in known:
                found[name] = partner
    return dict(sorted(found.items()))


def product_norm(a: Tensor, b: Tensor) -> float:
    """‖B·A‖_F = √tr((BᵀB)(AAᵀ)) without the product itself.

    Args:
        a: A, ``[r, …]``.
        b: B, ``[out, r, …]``; of a convolution ``[out, r, 1, 1]``.
    """
    return low_rank.product_norm(b.double().flatten(1), a.double().flatten(1))
