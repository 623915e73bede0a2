"""Loading a proxy from files that a server has sent; files that are more than data are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedfm.errors import DataError, RecipeError
from fedfm.models.checkpoints import PretrainedCheckpoint
from fedfm.models.configs import read_config
from fedfm.models.processors import Modality, Processor, read_processor
from fedfm.printable import quoted
from fedfm.proxies.base import ClientCopy
from fedfm.proxies.folder import load_proxy

REACHING = ("auto_map", "attn_implementation", "kernel", "quantization")
"""Parts of names of settings that make transformers load code or kernels."""

VOCABULARY = "tokenizer.json"
"""Not searched: its words may look like paths, but it is read as a table and names no files."""


def load_received(folder: Path, auto_class: Any) -> ClientCopy:
    """Loads a proxy that a server has sent.

    Args:
        folder: with its files only.
        auto_class: the task's class, as for `load_proxy`.

    Raises:
        DataError: a file is more than data, or they do not belong together.
        RecipeError: the proxy has the head of another task.
    """
    _refuse_active(folder)
    proxy, manifest = load_proxy(folder, auto_class)
    return manifest.settings.client_copy(proxy, manifest.kept_neurons, manifest.version)


def load_processor(folder: Path, modality: Modality) -> Processor:
    """Loads a tokenizer or image processor that a server has sent.

    Args:
        folder: with its files and the model's config only.
        modality: what the task's inputs are.

    Raises:
        DataError: a file is more than data, or they do not belong together.
    """
    _refuse_active(folder)
    checkpoint = PretrainedCheckpoint(folder, "the server's model")
    try:
        return read_processor(checkpoint, read_config(checkpoint), modality)
    except RecipeError as error:
        raise DataError(error.problems[0].message) from error


def _refuse_active(folder: Path) -> None:
    """Refuses settings that would load code, or name anything outside the folder."""
    for path in sorted(folder.glob("*.json")):
        if path.name == VOCABULARY:
            continue
        try:
            settings = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path.name} of the proxy is not JSON") from error
        for key, value in _leaves(settings):
            if value is not None and any(part in key for part in REACHING):
                raise DataError(f"{path.name} of the proxy sets {quoted(key)}, which could load code")
            if isinstance(value, str) and len(value) > 1 and (value[0] in "/~\\" or ".." in value or "://" in value):
                raise DataError(f"{path.name} of the proxy names a file or an address ({quoted(key)})")


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every value that is not a container, with its dotted key; without recursion, so that depth does not matter."""
    waiting: list[tuple[str, Any]] = [("", tree)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{key}.{name}", item) for name, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(key, item) for item in reversed(value)]
        else:
            yield key, value
