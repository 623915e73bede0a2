"""Error feedback: a client adds to its next update what the stage has left out of this one.

Karimireddy et al., Error Feedback Fixes SignSGD and Other Gradient Compression Schemes, arXiv:1901.09847, Algorithm 2;
Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, arXiv:1809.07599. With the stage's compression C and the residual
e_c at client c, 0 at first:

    p = Δ_c + β·e_c,   sent = C(p),   e_c ← p − sent

β = 1 in these papers; SparseLoCo, arXiv:2508.15706, takes less, so that old residuals fade. A client that is asked
seldom adds an old residual. What the server sends has no residual.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedfm.params import Params, is_finite, zeros_like
from fedfm.spec import Spec, spec_of
from fedfm.updates.stages.base import Stage
from fedfm.updates.stages.flat import split


class ErrorFeedback(Stage):
    """A stage that loses a part of the update, which the client keeps for the next one."""

    error_feedback: bool = True
    """Keep what was lost and add it to the client's next update; the client then has state between rounds."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """β: share of the residual that is added to the next update."""

    @model_validator(mode="after")
    def _at_clients(self) -> Self:
        if self.error_feedback and self.direction == "down":
            raise ValueError(
                "error_feedback is for what clients send, and `direction: down` encodes what the server sends: set "
                "error_feedback=false"
            )
        return self

    @property
    def stateful(self) -> bool:
        """A client keeps the residual of error feedback."""
        return self.error_feedback

    def start(self, spec: Spec) -> Params:
        """Residuals of zero."""
        if not self.error_feedback:
            return {}
        return {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in split(spec)[0].items()}

    def encode(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """The update plus the residual, compressed, and the new residual."""
        spec = spec_of(params)
        residuals = {name: own[name] for name in split(spec)[0] if name in own}
        whole = {**params, **{name: _plus(params[name], self.decay * residual) for name, residual in residuals.items()}}
        beside = {name: tensor for name, tensor in own.items() if name not in residuals}
        sent, kept = self.compress(whole, beside, generator)
        if all(is_finite(whole[name]) for name in residuals):
            arrived = self.decode(sent, spec) if residuals else {}
            kept |= {name: whole[name] - arrived[name] for name in residuals}
        else:  # the server refuses the update
            kept |= zeros_like(residuals)
        return sent, kept

    @abstractmethod
    def compress(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """The encoded tensors, and what is kept beside the residual.

        Args:
            params: what is sent, the residual included.
            own: what `start` or the last round left beside the residual.
            generator: as for `encode`.
        """


def _plus(update: Tensor, residual: Tensor) -> Tensor:
    """Update + residual; an update with residual 0 keeps its bits, −0.0 too."""
    return torch.where(residual == 0, update, update + residual)
