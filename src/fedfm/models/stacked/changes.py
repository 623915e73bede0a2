"""Layers that add x ΔWᵀ, with a ΔW of each client that PEFT computes from the trained values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from fedfm.models.stacked.layers import Forward, Stacks, adapter_of
from fedfm.models.stacked.layout import own_products


class _Change(nn.Module):
    """ΔW ``[out, in]`` of a PEFT layer, as a function of the parameters that `functional_call` sets."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        change: Tensor = self.layer.get_delta_weight(adapter_of(self.layer))
        return change.to_dense()


def dense_change(module: Any, own: dict[str, nn.Parameter], stacks: Stacks) -> Forward:
    """y_k = base(x_k) + x_k ΔW_kᵀ, for a layer whose ``get_delta_weight`` returns ``[out, in]``.

    ΔW_k is computed again in the backward pass, so that a pass holds the matrices of one layer at a time, K·out·in
    values, instead of those of all layers.
    """
    change = _Change(module)
    names = list(own)

    def added(x: Tensor, sizes: Sequence[int], *values: Tensor) -> Tensor:
        changes = [
            functional_call(change, {f"layer.{name}": value for name, value in zip(names, client, strict=True)})
            for client in zip(*(value.unbind() for value in values), strict=True)
        ]
        return own_products(x, torch.stack(changes).mT, sizes)

    def forward(x: Tensor) -> Tensor:
        values = [stacks.required(parameter) for parameter in own.values()]
        y: Tensor = module.get_base_layer()(x)
        more: Tensor = checkpoint(
            added, x, stacks.layout.sizes(x), *values, use_reentrant=False, preserve_rng_state=False
        )
        return y + more

    return forward
