"""What server and clients both know of a secure sum: its terms, the weights, and how an update becomes one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfm.aggregation import Contribution, Rule
from fedfm.params import Params, is_finite
from fedfm.secure import SecureSettings, Terms
from fedfm.spec import Spec, TensorSpec, count, problem
from fedfm.updates.path import GroupSpecs
from fedfm.wire import TUNABLE

SECURE = "secure"
"""Group of all messages of a secure sum."""


@dataclass(frozen=True)
class Masking:
    """Secure sums of a recipe.

    Attributes:
        settings: the recipe's ``secure``.
        rule: the recipe's, with what the sampling decides filled in; it weighs clients.
    """

    settings: SecureSettings
    rule: Rule

    @property
    def terms(self) -> Terms:
        """What all parties must agree on."""
        return self.settings.terms(self.rule.weight(Contribution("", self.settings.most_examples, 1)))

    def weight(self, client: str, examples: int, steps: int) -> int:
        """Weight of a client's update; a whole number, since weights are summed as such."""
        capped = Contribution(client, min(examples, self.settings.most_examples), steps)
        return round(self.rule.weight(capped))


def length(specs: GroupSpecs) -> int:
    """P: the values of all groups."""
    return sum(count(spec) for spec in specs.values())


def flattened(
    groups: Mapping[str, Mapping[str, Tensor]], specs: GroupSpecs, weight: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An update as one vector, group by group and name by name in alphabetical order, and the weight of each value.

    The tunable is weighted; other groups are combined by the plain mean, so that each client has the weight 1 there.

    Args:
        groups: as encoded by the update path.
        specs: that they must have.
        weight: of the client.

    Returns:
        Both ``[P]``.

    Raises:
        FloatingPointError: a value is not finite.
        ValueError: a tensor is missing, has another shape or dtype, or is not of floating point.
    """
    values, weights = [], []
    for group in sorted(specs):
        if reason := problem(groups.get(group, {}), specs[group]):
            raise ValueError(f"group `{group}` of the update: {reason}")
        for name in sorted(specs[group]):
            tensor = groups[group][name]
            if not tensor.is_floating_point():
                raise ValueError(f"tensor `{name}` is {tensor.dtype}, and only floating-point values can be summed")
            if not is_finite(tensor):
                raise FloatingPointError(
                    f"tensor `{name}` of the update is not finite; try a lower local.learning_rate"
                )
            values.append(tensor.detach().double().flatten().numpy())
            weights.append(np.full(tensor.numel(), weight if group == TUNABLE else 1.0))
    return np.concatenate(values), np.concatenate(weights)


def means(
    total: NDArray[np.float64], specs: GroupSpecs, *, weight: float, clients: int
) -> dict[str, Mapping[str, Tensor]]:
    """The inverse of `flattened` for a sum: the weighted mean of the tunable, and the plain mean of other groups.

    Args:
        total: ``[P]``.
        specs: of the groups.
        weight: the sum of the clients' weights.
        clients: that are in the sum.
    """
    found: dict[str, Mapping[str, Tensor]] = {}
    start = 0
    for group in sorted(specs):
        params: Params = {}
        for name in sorted(specs[group]):
            spec = specs[group][name]
            part = torch.from_numpy(total[start : start + spec.numel] / (weight if group == TUNABLE else clients))
            params[name] = part.view(spec.shape).to(spec.dtype)
            start += spec.numel
        found[group] = params
    return found


def message(content: bytes) -> dict[str, Tensor]:
    """Bytes as the tensors of a group."""
    return {"message": tensor_of(content)}


def tensor_of(content: bytes) -> Tensor:
    """Bytes as a tensor, uint8."""
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())


def bytes_of(tensor: Tensor) -> bytes:
    """The inverse of `tensor_of`; of rows, all of them."""
    return tensor.contiguous().numpy().tobytes()


def byte_rows(*shape: int) -> TensorSpec:
    """The spec of bytes."""
    return TensorSpec(shape, torch.uint8)


def words_spec(values: int, bits: int, facts: int, proof: int) -> Spec:
    """The spec of a masked vector.

    Args:
        values: P.
        bits: of a value.
        facts: words of 64 bits beside the values.
        proof: bytes of what the client says of it.
    """
    dtype = torch.uint32 if bits == 32 else torch.uint64
    return {
        "values": TensorSpec((values,), dtype),
        "facts": TensorSpec((facts,), torch.uint64),
        "proof": byte_rows(proof),
    }
