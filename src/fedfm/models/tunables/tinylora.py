"""TinyLoRA: a trained vector v, projected into the leading singular directions of each matrix.

Morris et al., Learning to Reason in 13 Parameters, arXiv:2602.04118:

    ΔW = B (Σ_i v_i P_i) A,  with W ≈ B A the r leading singular directions (√S on each side), P_i [r, r] random

A and B come from the backbone and P from the seed, so each end computes them itself, and only v travels.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from peft import TinyLoraConfig
from peft.tuners.tinylora import TinyLoraLayer
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear

from fedfm.capabilities import LINEAR_TUNABLE
from fedfm.models.backbones import Backbone
from fedfm.models.stacked.layers import Forward, Stacks, adapter_of
from fedfm.models.stacked.layout import own_products
from fedfm.models.tunable import StackedForms, Tunable
from fedfm.models.tunables.base import attach_peft
from fedfm.models.tunables.matrices import OfMatrices
from fedfm.models.tunables.targets import transposed
from fedfm.randomness import derive_seed


def stacked_core(module: Any, own: dict[str, nn.Parameter], stacks: Stacks) -> Forward:
    """A TinyLoRA layer with each client's v: the products with A and B are shared."""
    adapter = adapter_of(module)
    vector = module.tinylora_v[adapter][module._tinylora_v_key[adapter]]

    def forward(x: Tensor) -> Tensor:
        a, b = module.tinylora_A[adapter].to(x.dtype), module.tinylora_B[adapter].to(x.dtype)
        values = stacks.required(vector)
        core = torch.einsum("ki,ijl->kjl", values, module.tinylora_P[adapter].to(values.dtype))
        y: Tensor = module.get_base_layer()(x)
        return y + linear(own_products(linear(x, a), core.mT, stacks.layout.sizes(x)), b)

    return forward


class TinyLora(OfMatrices):
    """A trained vector in the singular directions of each matrix.

    Its vectors are numbered through all adapted matrices, and so is what is drawn for them.
    """

    gives = frozenset({LINEAR_TUNABLE})
    needs_all_layers: ClassVar[bool] = True
    forms: ClassVar[StackedForms] = {TinyLoraLayer: stacked_core}

    kind: Literal["tinylora"] = "tinylora"
    """A trained vector in the singular directions of each matrix."""
    r: Annotated[int, Field(ge=1, le=1000)] = 2
    """Number of singular directions of each matrix."""
    u: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Length of a trained vector."""
    weight_tying: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the matrices that do not have a vector of their own: 0: each has one; 1: all share one."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """TinyLoRA; takes a singular value decomposition of each adapted matrix.

        Raises:
            RecipeError: no module matches ``target_modules``.
        """
        modules, common = self.matrices(backbone, task_type)
        config = TinyLoraConfig(
            r=self.r,
            u=self.u,
            weight_tying=self.weight_tying,
            projection_seed=derive_seed(seed, "tunable projections"),
            fan_in_fan_out=transposed(modules),
            **common,
        )
        tunable = attach_peft(backbone, config, seed=seed, stacked_forms=self.forms)
        for layer in tunable.model.modules():
            if isinstance(layer, TinyLoraLayer):
                _orient(layer)
        return tunable


def _orient(layer: Any) -> None:
    """Gives each singular direction the sign with which the largest entry of its column of B is positive.

    A decomposition leaves signs open, and other machines may choose others.
    """
    adapter = adapter_of(layer)
    a, b = layer.tinylora_A[adapter], layer.tinylora_B[adapter]
    signs = b.gather(0, b.abs().argmax(0, keepdim=True)).sign()
    a.mul_(signs.T)
    b.mul_(signs)
