"""VeRA: all matrices share random A and B; vectors d and b that rescale them are trained.

Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation, arXiv:2310.11454, eq. (2):

    ΔW = diag(b) B diag(d) A

ΔW is a product of what is trained, so the mean of clients' vectors is not the mean of their changes.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from peft import VeraConfig
from peft.tuners.vera import VeraLayer
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear

from fedfm.models.backbones import Backbone
from fedfm.models.stacked.layers import Forward, Stacks, adapter_of
from fedfm.models.stacked.layout import spread
from fedfm.models.tunable import StackedForms, Tunable
from fedfm.models.tunables.base import attach_peft
from fedfm.models.tunables.matrices import OfMatrices
from fedfm.models.tunables.targets import transposed
from fedfm.randomness import derive_seed


def stacked_scales(module: Any, own: dict[str, nn.Parameter], stacks: Stacks) -> Forward:
    """A VeRA layer with each client's d and b: the products with A and B are shared."""
    adapter = adapter_of(module)

    def forward(x: Tensor) -> Tensor:
        sizes = stacks.layout.sizes(x)
        inner, outer = (stacks.required(part[adapter]) for part in (module.vera_lambda_d, module.vera_lambda_b))
        down = linear(x, module.vera_A[adapter][:, : module.in_features].to(x.dtype))
        up = linear(down * spread(inner, down, sizes), module.vera_B[adapter][: module.out_features].to(x.dtype))
        y: Tensor = module.get_base_layer()(x)
        return y + up * spread(outer, up, sizes)

    return forward


class Vera(OfMatrices):
    """Trained scales of shared random factors."""

    forms: ClassVar[StackedForms] = {VeraLayer: stacked_scales}

    kind: Literal["vera"] = "vera"
    """Trained scales of shared random factors."""
    r: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Rank of the random factors; each matrix trains r + out values."""
    d_initial: Annotated[float, Field(gt=0)] = 0.1
    """Initial value of d; b starts at zero."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """VeRA.

        Raises:
            RecipeError: no module matches ``target_modules``.
        """
        modules, common = self.matrices(backbone, task_type)
        config = VeraConfig(
            r=self.r,
            d_initial=self.d_initial,
            projection_prng_key=derive_seed(seed, "tunable projections"),
            fan_in_fan_out=transposed(modules),
            **common,
        )
        return attach_peft(backbone, config, seed=seed, stacked_forms=self.forms)
