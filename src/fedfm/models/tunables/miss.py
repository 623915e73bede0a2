"""MiSS: one trained matrix D [r, out] is shared by all groups of r inputs.

Kang and Yin, Balancing LoRA Performance and Efficiency with Simple Shard Sharing, arXiv:2409.15371:

    y = W x + Dᵀ Σ_g x[g·r : (g + 1)·r]

The last group is filled up with zeros. D starts at zero.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from peft import MissConfig
from peft.tuners.miss import MissLayer
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from fedfm.capabilities import LINEAR_TUNABLE
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.stacked.layers import Forward, Stacks, adapter_of
from fedfm.models.stacked.layout import own_products
from fedfm.models.tunable import StackedForms, Tunable
from fedfm.models.tunables.base import attach_peft
from fedfm.models.tunables.matrices import OfMatrices, size_of


def stacked_shards(module: MissLayer, own: dict[str, nn.Parameter], stacks: Stacks) -> Forward:
    """A MiSS layer with each client's D."""
    (shard,) = own.values()
    r = module.miss_r[adapter_of(module)]

    def forward(x: Tensor) -> Tensor:
        y: Tensor = module.get_base_layer()(x)
        filled = pad(x, (0, -x.shape[-1] % r))
        sums = filled.reshape(*x.shape[:-1], -1, r).sum(-2)
        return y + own_products(sums, stacks.required(shard), stacks.layout.sizes(x))

    return forward


class Miss(OfMatrices):
    """A trained shard of each matrix's change, repeated over its inputs."""

    gives = frozenset({LINEAR_TUNABLE})
    reads_transposed: ClassVar[bool] = False
    forms: ClassVar[StackedForms] = {MissLayer: stacked_shards}

    kind: Literal["miss"] = "miss"
    """A trained shard of each matrix's change, repeated over its inputs."""
    r: Annotated[int, Field(ge=1, le=100_000)] = 8
    """Number of inputs of a shard, which is also the rank of the change; r·out values of a matrix are trained."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """MiSS.

        Raises:
            RecipeError: no module matches ``target_modules``; at ``tune.r``: a matrix has fewer inputs; at
                ``tune.kind``: matrices are stored transposed (GPT-2).
        """
        modules, common = self.matrices(backbone, task_type)
        for name, module in modules.items():
            if self.r > size_of(module)[1]:
                raise RecipeError(f"{self.r} exceeds the {size_of(module)[1]} inputs of {name}", where="tune.r")
        config = MissConfig(r=self.r, **common)
        return attach_peft(backbone, config, seed=seed, stacked_forms=self.forms)
