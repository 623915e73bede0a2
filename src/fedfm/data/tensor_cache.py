"""Keeps tensors, and facts about them, in the cache of `fedfm.data.cache`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fedfm
from fedfm.data.cache import SUM_BYTES, cached_file, is_intact
from fedfm.wire import from_bytes, to_bytes


@dataclass(frozen=True)
class CachedTensors:
    """The content of an entry.

    Attributes:
        tensors: by name, on the CPU; those that were read must not be written to.
        facts: JSON.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)


def tensor_key(**parts: object) -> str:
    """sha256 (hex) of JSON-serialisable parts and the versions of fedfm and torch, which decide the last bits."""
    parts |= {"fedfm": fedfm.__version__, "torch": torch.__version__}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached_tensors(key: str, build: Callable[[], CachedTensors]) -> CachedTensors:
    """The tensors stored under ``key``. They are built first if they are missing or damaged.

    Args:
        key: from `tensor_key`.
        build: called at most once.

    Raises:
        StorageError: as for `fedfm.data.cache.cached_file`; an unwritable folder is reported before anything is built.
    """

    def write(beside: Path) -> None:
        built = build()
        beside.write_bytes(to_bytes(built.tensors, {"facts": json.dumps(built.facts)}))

    path = cached_file(_name(key), write)
    with path.open("rb") as file:
        tensors, metadata = from_bytes(file.read(path.stat().st_size - SUM_BYTES))
    return CachedTensors(tensors, json.loads(metadata["facts"]))


def has_tensors(key: str) -> bool:
    """Whether the cache has an intact entry under ``key``."""
    return is_intact(_name(key))


def _name(key: str) -> str:
    return f"{key}.tensors"
