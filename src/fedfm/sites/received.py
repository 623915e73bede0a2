"""A proxy as a server sends it: files that a site loads, and that must be nothing but data."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.errors import DataError
from fedfm.models.backbones import Backbone
from fedfm.proxies.construct import kept_blocks, own_parameters
from fedfm.proxies.folder import load_proxy
from fedfm.proxies.versions import HeldProxy

ENDINGS = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Of files that a proxy's folder may have; none of them is code."""

REACHING = ("auto_map", "attn_implementation", "kernel", "quantization")
"""Parts of the names of settings that would make transformers load code, or a library to run the model by."""

VOCABULARY = "tokenizer.json"
"""Full of words that look like anything; it is read as a table, and names no files."""


@dataclass(frozen=True)
class ReceivedProxy:
    """A proxy that has arrived.

    Attributes:
        model: the proxy, its processor included.
        held: what alignment changes of it.
        folder: where its files are, as long as it is used.
    """

    model: Backbone
    held: HeldProxy
    folder: tempfile.TemporaryDirectory[str]


def receive_proxy(files: Mapping[str, bytes], auto_class: Any) -> ReceivedProxy:
    """Unpacks and loads a proxy.

    Args:
        files: name → content.
        auto_class: the task's class, as for `load_proxy`.

    Raises:
        DataError: a file has no business in a proxy's folder, or they do not belong together.
        RecipeError: the proxy has the head of another task.
    """
    folder = tempfile.TemporaryDirectory(prefix="fedfm-proxy-")
    for name, content in files.items():
        _refuse_active(name, content)
        (Path(folder.name) / name).write_bytes(content)
    proxy, manifest = load_proxy(Path(folder.name), auto_class)
    kept = manifest.kept_neurons
    held = HeldProxy(own_parameters(proxy, kept), kept_blocks(proxy, kept), manifest.version)
    return ReceivedProxy(proxy, held, folder)


def _refuse_active(name: str, content: bytes) -> None:
    """Refuses what could be more than data: another file's name, code, or a setting that reaches out of the folder."""
    if not name or Path(name).name != name or not name.endswith(ENDINGS):
        raise DataError(f"{name!r} has no business in a proxy's folder")
    if not name.endswith(".json") or name == VOCABULARY:
        return
    try:
        settings = json.loads(content)
    except ValueError as error:
        raise DataError(f"{name} of the proxy is no JSON") from error
    for key, value in _leaves(settings):
        if value is not None and any(part in key for part in REACHING):
            raise DataError(f"{name} of the proxy sets `{key}`, which could load code")
        if isinstance(value, str) and len(value) > 1 and (value[0] in "/~\\" or ".." in value or "://" in value):
            raise DataError(f"{name} of the proxy names a file or an address ({key})")


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no other, with the keys on the way to it."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _leaves(value, f"{key}.{name}")
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value, key)
    else:
        yield key, tree
