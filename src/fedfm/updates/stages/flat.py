"""A group's floating-point tensors as one flat tensor, in sorted order of their names.

The digest of the spec takes the place of the names; sender and receiver both hold the spec.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor

from fedfm.params import Params
from fedfm.spec import Spec, digest


def split(spec: Spec) -> tuple[Spec, Spec]:
    """Floating-point tensors, sorted by name; and the others."""
    flat = {name: spec[name] for name in sorted(spec) if spec[name].dtype.is_floating_point}
    return flat, {name: tensor for name, tensor in spec.items() if name not in flat}


def prefix(kind: str, spec: Spec) -> str:
    """What the names of encoded tensors begin with: the stage's kind and 16 hex digits of the spec's digest."""
    return f"{kind}.{digest(spec)[:16]}"


def dtype_of(spec: Spec) -> torch.dtype:
    """The narrowest dtype that holds the values of all tensors."""
    dtypes = {tensor.dtype for tensor in spec.values()} or {torch.float32}
    return functools.reduce(torch.promote_types, dtypes)


def flatten(params: Mapping[str, Tensor], spec: Spec) -> Tensor:
    """All values, ``[count(spec)]``, in `dtype_of` their spec."""
    dtype = dtype_of(spec)
    parts = [params[name].reshape(-1).to(dtype) for name in spec]
    return torch.cat(parts) if parts else torch.empty(0, dtype=dtype)


def unflatten(values: Tensor, spec: Spec) -> Params:
    """The inverse of `flatten`, in each tensor's own dtype; ``values`` is ``[count(spec)]``."""
    ends = accumulate(tensor.numel for tensor in spec.values())
    return {
        name: values[end - tensor.numel : end].view(tensor.shape).to(tensor.dtype)
        for (name, tensor), end in zip(spec.items(), ends, strict=True)
    }
