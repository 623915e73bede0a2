"""C³A: ΔW is made of circulant blocks, each given by one trained vector.

Chen et al., Parameter-Efficient Fine-Tuning via Circular Convolution, arXiv:2407.19342, with PEFT's factor 1/in:

    ΔW x = (1/in) · [Σ_n w_mn ⋆ x_n]_m,  x_n and the m-th output are blocks of b values, ⋆ is a circular convolution

The kernels start at zero instead of random values, so that round 1 starts from the backbone; ΔW is linear in them.

PEFT 0.21 computes the right output, but passes another gradient to the layer's input than that of this output
(correlation in place of convolution), so layers below learn from a wrong one. `ExactC3ALinear` leaves the gradient to
autograd; what is saved is PEFT's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import gcd
from typing import Annotated, ClassVar, Literal

import torch
from peft import C3AConfig
from peft.tuners.c3a import C3ALayer, C3ALinear
from pydantic import Field
from torch import Tensor, nn
from torch.fft import fft, ifft

from fedfm.capabilities import LINEAR_TUNABLE
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.stacked.layers import Forward, Stacks, adapter_of
from fedfm.models.tunable import StackedForms, Tunable
from fedfm.models.tunables.base import attach_peft
from fedfm.models.tunables.matrices import OfMatrices, size_of


def convolved(x: Tensor, kernels: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """ΔW x in float32, in which PEFT computes it too.

    Args:
        x: ``[..., in]``.
        kernels: of each client, ``[out/b, in/b, b]``.
        sizes: number of vectors of each client.
    """
    _, blocks, size = kernels[0].shape
    inputs = torch.split(ifft(x.reshape(-1, blocks, size).float()), list(sizes))
    outputs = [
        torch.einsum("tnb,mnb->tmb", part, fft(kernel.float())) for part, kernel in zip(inputs, kernels, strict=True)
    ]
    changed: Tensor = fft(torch.cat(outputs)).real.flatten(1) / x.shape[-1]
    return changed.view(*x.shape[:-1], -1)


class ExactC3ALinear(C3ALinear):
    """PEFT's layer, with the gradient of its output."""

    def forward(self, x: Tensor) -> Tensor:
        """W x + ΔW x."""
        y: Tensor = self.base_layer(x)
        if self.disable_adapters or self.merged:
            return y
        kernel = self.c3a_kernel[adapter_of(self)]
        return y + convolved(x, [kernel], [x.shape[:-1].numel()]).to(y.dtype)


def stacked_convolution(module: C3ALayer, own: dict[str, nn.Parameter], stacks: Stacks) -> Forward:
    """A C³A layer with each client's kernels."""
    (kernel,) = own.values()

    def forward(x: Tensor) -> Tensor:
        y: Tensor = module.get_base_layer()(x)
        return y + convolved(x, stacks.required(kernel).unbind(), stacks.layout.sizes(x)).to(y.dtype)

    return forward


class C3A(OfMatrices):
    """Trained kernels of circular convolutions."""

    gives = frozenset({LINEAR_TUNABLE})
    reads_transposed: ClassVar[bool] = False
    forms: ClassVar[StackedForms] = {C3ALayer: stacked_convolution}

    kind: Literal["c3a"] = "c3a"
    """Trained kernels of circular convolutions."""
    block_size: Annotated[int, Field(ge=1)] | None = None
    """b: number of values of a block, a divisor of all inputs and outputs: out·in/b values of a matrix are trained.
    Null: the greatest common divisor, the smallest change."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """C³A.

        Raises:
            RecipeError: no module matches ``target_modules``; at ``tune.block_size``: it does not divide the sides of a
                matrix; at ``tune.kind``: matrices are stored transposed (GPT-2).
        """
        modules, common = self.matrices(backbone, task_type)
        sides = {name: size_of(module) for name, module in modules.items()}
        divisor = reduce(gcd, (side for pair in sides.values() for side in pair))
        size = self.block_size or divisor
        for name, (rows, columns) in sides.items():
            if rows % size or columns % size:
                raise RecipeError(
                    f"blocks of {size} do not divide {name} ({rows} x {columns}); the largest that divide all chosen "
                    f"matrices have {divisor}",
                    where="tune.block_size",
                )
        config = C3AConfig(block_size=size, init_weights=True, **common)
        tunable = attach_peft(backbone, config, seed=seed, stacked_forms=self.forms)
        for layer in tunable.model.modules():
            if isinstance(layer, C3ALinear):
                layer.__class__ = ExactC3ALinear
        return tunable
