"""Random-k: values at random positions are sent, at the same positions by all clients of a round.

Konečný et al., Federated Learning: Strategies for Improving Communication Efficiency, arXiv:1610.05492, §3 (subsampling
and random masks). Sender and receiver draw k of n positions from one seed a round, so only values travel. The positions
are the same for all clients that hold the same part of the tunable. The stage is therefore linear: the sum of encoded
updates decodes to the sum of what they stand for.

    sent = p[positions],   decoded = c·sent at the positions, else 0

- `error_feedback: true` (default): p = Δ + e, c = 1; what is left out is sent later (Stich et al., arXiv:1809.07599).
- `scale: true`: p = Δ, c = n/k; the mean over all draws is the update, and its variance grows with n/k.
- neither: p = Δ, c = 1; a round changes only k values of the tunable, and forgets the other changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.spec import Spec, TensorSpec, count, spec_of
from fedfm.updates.stages.feedback import ErrorFeedback
from fedfm.updates.stages.flat import dtype_of, flatten, prefix, split, unflatten


class RandomK(ErrorFeedback):
    """Send only values at random positions, which all clients of a round share."""

    flattens: ClassVar[bool] = True
    reads_names: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    kind: Literal["random-k"] = "random-k"
    """Send only values at random positions, which all clients of a round share."""
    direction: Literal["up"] = "up"
    """Updates to the server only: parameters are not sparse."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of all values that is sent; at least one value is."""
    scale: bool = False
    """Multiply what arrives by n/k, so that its mean is the update; without error feedback only."""

    _seed: int | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_correction(self) -> Self:
        if self.scale and self.error_feedback:
            raise ValueError(
                "scale sends n/k times the update, so the residual of error_feedback would grow without bound: set "
                "one of the two to false"
            )
        return self

    def in_round(self, seed: int) -> RandomK:
        """The stage with the positions of one round."""
        bound = self.model_copy()
        bound._seed = seed
        return bound

    def spec(self, spec: Spec) -> Spec:
        """Values ``[k]`` in place of the floating-point tensors; others are unchanged."""
        flat, others = split(spec)
        return {f"{prefix(self.kind, flat)}.values": TensorSpec((self._kept(count(flat)),), dtype_of(flat)), **others}

    def compress(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """The values at the round's positions; all of them where one is not a number, so that none is hidden."""
        flat, others = split(spec_of(params))
        values = flatten(params, flat)
        sent = values[self._positions(len(values))]
        if not values.isfinite().all():
            sent = torch.full_like(sent, torch.nan)
        return {f"{prefix(self.kind, flat)}.values": sent, **{name: params[name] for name in others}}, {}

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """Zeros, with the values that were sent in their positions."""
        flat, others = split(spec)
        values, total = params[f"{prefix(self.kind, flat)}.values"], count(flat)
        whole = torch.zeros(total, dtype=values.dtype)
        whole[self._positions(total)] = values * (total / max(1, len(values))) if self.scale else values
        return {**unflatten(whole, flat), **{name: params[name] for name in others}}

    def _kept(self, total: int) -> int:
        """K."""
        return min(total, max(1, round(self.share * total)))

    def _positions(self, total: int) -> Tensor:
        """The round's positions of ``total`` values, ascending int64 ``[k]``.

        Raises:
            ValueError: the stage is not that of a round.
        """
        if self._seed is None:
            raise ValueError("the positions of random-k are those of a round: use `in_round`")
        chosen = numpy_generator(self._seed, self.kind).choice(total, self._kept(total), replace=False, shuffle=False)
        return torch.from_numpy(np.sort(chosen))
