"""PowerSGD: a matrix is sent as two thin factors, from one step of a power iteration that goes on between rounds.

Vogels, Karimireddy, Jaggi, PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization,
arXiv:1905.13727, Algorithms 1 and 2. With a client's update plus residual M [n, m] and Q [m, r] of its last round,
random at first:

    P ← orthonormal basis of M·Q,   Q ← Mᵀ·P,   decoded = P·Qᵀ

The paper sums P over the workers between the two steps, which takes two exchanges. Here each client has its own P and
Q, so that the server decodes every update and the stage is not linear. A matrix is sent as factors where these are
smaller, r·(n + m) < n·m; all other tensors are sent as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm.capabilities import WHOLE_VIEWS
from fedfm.params import Params
from fedfm.settings import Capabilities
from fedfm.spec import Spec, TensorSpec, count, spec_of
from fedfm.updates.stages.feedback import ErrorFeedback
from fedfm.updates.stages.flat import dtype_of, flatten, prefix, split, unflatten


class PowerSgd(ErrorFeedback):
    """Send each matrix as the product of two thin factors."""

    flattens: ClassVar[bool] = True
    reads_names: ClassVar[bool] = True

    kind: Literal["power-sgd"] = "power-sgd"
    """Send each matrix as the product of two thin factors."""
    direction: Literal["up"] = "up"
    """Updates to the server only: parameters are not of low rank."""
    rank: Annotated[int, Field(ge=1, le=10_000)] = 4
    """r: columns of each factor. LoRA's own factors are thin already: choose less than half of `tune.r`."""
    error_feedback: bool = True
    """Keep what was lost, and Q, for the client's next update; the client then has state between rounds. Without it
    every round starts from a random Q."""

    def capabilities(self) -> Capabilities:
        """Also what the kept Q relies on."""
        said = super().capabilities()
        if not self.stateful:
            return said
        needs = {**said.needs, WHOLE_VIEWS: "a client's Q is that of whole matrices; or set error_feedback=false"}
        return Capabilities(needs, said.gives, said.takes)

    def spec(self, spec: Spec) -> Spec:
        """All factors as one flat tensor, all other floats as another; tensors of other dtypes are unchanged."""
        flat, others = split(spec)
        name, (matrices, dense) = prefix(self.kind, flat), self._parts(flat)
        return {
            f"{name}.factors": TensorSpec((sum(self._sizes(matrices)),), dtype_of(flat)),
            f"{name}.dense": TensorSpec((count(dense),), dtype_of(flat)),
            **others,
        }

    def start(self, spec: Spec) -> Params:
        """Residuals of zero, and a Q of zeros for each matrix, which stands for a random one."""
        if not self.stateful:
            return {}
        matrices, _ = self._parts(split(spec)[0])
        q = {
            _q(name): torch.zeros(matrix.shape[1], self.rank, dtype=_wide(matrix.dtype))
            for name, matrix in matrices.items()
        }
        return {**super().start(spec), **q}

    def compress(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """The factors, the dense values, and the new Q of each matrix."""
        flat, others = split(spec_of(params))
        name, (matrices, dense) = prefix(self.kind, flat), self._parts(flat)
        factors, kept = list[Tensor](), Params()
        for each, spec in matrices.items():
            matrix, q = params[each].to(_wide(spec.dtype)), own.get(_q(each))
            if q is None or not q.any():
                q = torch.from_numpy(generator.standard_normal((spec.shape[1], self.rank))).to(matrix.dtype)
            p = torch.linalg.qr(matrix @ q).Q
            q = matrix.T @ p
            factors += [p.reshape(-1), q.reshape(-1)]
            if _q(each) in own:
                kept[_q(each)] = q
        sent = {
            f"{name}.factors": torch.cat([torch.empty(0), *factors]).to(dtype_of(flat)),
            f"{name}.dense": flatten(params, dense).to(dtype_of(flat)),
        }
        return {**sent, **{name: params[name] for name in others}}, kept

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """P·Qᵀ of each matrix, and the other tensors."""
        flat, others = split(spec)
        name, (matrices, dense) = prefix(self.kind, flat), self._parts(flat)
        parts = torch.split(params[f"{name}.factors"], self._sizes(matrices))
        found = {
            each: (_columns(p, self.rank) @ _columns(q, self.rank).T).to(matrix.dtype)
            for (each, matrix), p, q in zip(matrices.items(), parts[::2], parts[1::2], strict=True)
        }
        return {**found, **unflatten(params[f"{name}.dense"], dense), **{name: params[name] for name in others}}

    def _parts(self, flat: Spec) -> tuple[Spec, Spec]:
        """Matrices that are sent as factors, and other tensors."""
        matrices = {
            name: tensor
            for name, tensor in flat.items()
            if len(tensor.shape) == 2 and self.rank * sum(tensor.shape) < tensor.numel
        }
        return matrices, {name: tensor for name, tensor in flat.items() if name not in matrices}

    def _sizes(self, matrices: Spec) -> list[int]:
        """Values of P and Q of each matrix, in turn."""
        return [side * self.rank for matrix in matrices.values() for side in matrix.shape]


def _q(name: str) -> str:
    """Under which name a client keeps the Q of a matrix."""
    return f"{name}.power-sgd-q"


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the computation."""
    return torch.promote_types(dtype, torch.float32)


def _columns(values: Tensor, rank: int) -> Tensor:
    """A factor ``[rows, rank]`` in the dtype of the computation."""
    return values.view(-1, rank).to(_wide(values.dtype))
