"""Specs: names, shapes and dtypes of tensors, known before any tensor is there."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.printable import quoted


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


Spec = Mapping[str, TensorSpec]
"""Tensor name → shape and dtype."""


def spec_of(params: Mapping[str, Tensor]) -> Spec:
    """The spec of tensors that are there."""
    return {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in params.items()}


def count(spec: Spec) -> int:
    """Number of values."""
    return sum(tensor.numel for tensor in spec.values())


def empty(spec: Spec) -> dict[str, Tensor]:
    """Tensors without values, on torch's meta device."""
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in spec.items()}


def digest(spec: Spec) -> str:
    """sha256 (hex) of a spec; independent of the order of the names."""
    rows = [[name, list(spec[name].shape), str(spec[name].dtype)] for name in sorted(spec)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def problem(got: Mapping[str, Tensor], expected: Spec) -> str | None:
    """Why tensors do not have a spec, in words; None when they have it."""
    if missing := sorted(expected.keys() - got.keys()):
        return f"{len(missing)} tensors are missing, first `{missing[0]}`"
    if extra := sorted(got.keys() - expected.keys()):
        return f"{len(extra)} tensors were not asked for, first {quoted(extra[0])}"
    for name, tensor in expected.items():
        its = got[name]  # once: one that is on disk is read at each access
        if its.shape != tensor.shape:
            return f"tensor `{name}` has shape {list(its.shape)}, not {list(tensor.shape)}"
        if its.dtype != tensor.dtype:
            return f"tensor `{name}` is {its.dtype}, not {tensor.dtype}"
    return None
