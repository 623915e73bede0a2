"""Clipping: an update whose L2 norm exceeds a bound is scaled down to it, Δ ← Δ·min(1, C/‖Δ‖₂).

McMahan et al., Learning Differentially Private Recurrent Language Models, arXiv:1710.06963, §3.2 (flat clipping).
The norm is that of all tensors of the tunable together. Clipping alone gives no privacy guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm.capabilities import FREE_NORMS
from fedfm.params import Params, map_params
from fedfm.spec import Spec
from fedfm.updates.stages.base import Stage


class Clip(Stage):
    """Bound the L2 norm of each client's update."""

    reads_names: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {FREE_NORMS: "it scales updates down to a norm"}

    kind: Literal["clip"] = "clip"
    """Bound the L2 norm of each client's update."""
    direction: Literal["up"] = "up"
    """Updates to the server only."""
    norm: Annotated[float, Field(gt=0)] = 1.0
    """C: the largest L2 norm that an update may have; a longer one is scaled down to it."""

    linear: ClassVar[bool] = True

    def spec(self, spec: Spec) -> Spec:
        """Unchanged."""
        return spec

    def encode(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """Δ·min(1, C/‖Δ‖₂)."""
        floats = {name: tensor for name, tensor in params.items() if tensor.is_floating_point()}
        norm = math.hypot(*(torch.linalg.vector_norm(tensor.double()).item() for tensor in floats.values()))
        if norm <= self.norm:
            return dict(params), own
        return {**params, **map_params(lambda tensor: tensor * (self.norm / norm), floats)}, own

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """Unchanged."""
        return dict(params)
