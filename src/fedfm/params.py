"""`Params`: what is trained and travels, as named tensors. Algebra, digests, and safetensors files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Tensors by name; the names are those of the PEFT state dict. On the CPU unless said otherwise."""


def map_params(function: Callable[..., Tensor], first: Mapping[str, Tensor], *others: Mapping[str, Tensor]) -> Params:
    """Applies ``function`` tensor by tensor to one or more Params with the same names.

    Raises:
        KeyError: when a name of ``first`` is missing in another.
    """
    return {name: function(tensor, *(other[name] for other in others)) for name, tensor in first.items()}


def add(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Params:
    """A + b, in the dtype of ``a``."""
    return map_params(lambda x, y: x + y.to(x.dtype), a, b)


def subtract(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Params:
    """A − b."""
    return map_params(torch.sub, a, b)


def zeros_like(params: Mapping[str, Tensor]) -> Params:
    """Zeros with the names, shapes and dtypes of ``params``."""
    return map_params(torch.zeros_like, params)


def full_like(params: Mapping[str, Tensor], value: float) -> Params:
    """Tensors filled with ``value``, with the names, shapes and dtypes of ``params``."""
    return map_params(lambda tensor: torch.full_like(tensor, value), params)


def count(params: Mapping[str, Tensor]) -> int:
    """Number of scalars."""
    return sum(tensor.numel() for tensor in params.values())


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are numbers and none is infinite."""
    if math.isfinite(tensor.sum().item()):  # says so of nearly all, many times as fast as looking at each value
        return True
    return bool(tensor.isfinite().all())


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The raw little-endian bytes of a tensor, as safetensors stores them; of one on the CPU, no copy."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def tensor_digest(tensor: Tensor) -> str:
    """sha256 (hex) of dtype, shape and bytes of one tensor."""
    header = json.dumps([str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]).encode()
    whole = hashlib.sha256(header)
    whole.update(tensor_bytes(tensor))
    return whole.hexdigest()


def digest(params: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over names, dtypes, shapes and bytes; independent of the order of the names."""
    whole = hashlib.sha256()
    for name in sorted(params):
        whole.update(json.dumps([name, tensor_digest(params[name])]).encode())
    return whole.hexdigest()


def save(params: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file."""
    safetensors.torch.save_file({name: params[name].detach().cpu().contiguous() for name in sorted(params)}, path)


def load(path: Path) -> Params:
    """Reads a safetensors file to the CPU."""
    return safetensors.torch.load_file(path)
