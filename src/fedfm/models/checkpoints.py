"""Finds the files of a backbone: hub ids, local folders and builtins all become a folder of safetensors and JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedfm.errors import DataError, RecipeError
from fedfm.models import builtin
from fedfm.models.hub import snapshot
from fedfm.models.settings import ModelSettings
from fedfm.models.weights import weight_files

_ADAPTER = "adapter_config.json"
_READ = (".json", ".safetensors", ".txt", ".model")
_POINTER, _POINTER_BYTES = b"version https://git-lfs", 1024
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class PretrainedCheckpoint:
    """The files of a pretrained model.

    Attributes:
        folder: contains ``config.json`` and safetensors weights; temporary for random builtins.
        name: the ``base_model_name_or_path`` of adapters, by which others can load the same backbone.
        revision: commit of a hub id.
        pretrained: whether its weights are used; otherwise they are drawn, and may be absent.
        changes: of its config.
    """

    folder: Path
    name: str
    revision: str | None = None
    pretrained: bool = True
    changes: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def open_checkpoint(settings: ModelSettings, *, allow_network: bool = False) -> Iterator[PretrainedCheckpoint]:
    """Finds the files of a backbone; they exist until the end of the block.

    Raises:
        RecipeError: at ``model.path`` or ``model.revision``: the model does not exist or would need the network; or it
            has no config, no safetensors weights, or an adapter beside them.
        DataError: files are Git LFS pointers, or the index of weights is damaged.
    """
    with _found(settings, allow_network=allow_network) as checkpoint:
        yield replace(checkpoint, pretrained=settings.init == "pretrained", changes=settings.config)


@contextmanager
def _found(settings: ModelSettings, *, allow_network: bool) -> Iterator[PretrainedCheckpoint]:
    """The files, as `open_checkpoint`."""
    path, here = settings.path, Path(settings.path).expanduser()
    weights = settings.init == "pretrained"
    if settings.revision is not None and (path.startswith(builtin.PREFIX) or here.exists()):
        raise RecipeError(f"{path} has no revisions; only hub ids have revisions", where="model.revision")
    if path == builtin.PREFIX + "minilm":
        yield PretrainedCheckpoint(builtin.minilm_folder(), builtin.MINILM_NAME, builtin.MINILM_REVISION)
    elif path.startswith(builtin.PREFIX):
        with TemporaryDirectory(prefix="fedfm-") as temporary:
            builtin.write_random_model(path.removeprefix(builtin.PREFIX), Path(temporary))
            yield PretrainedCheckpoint(Path(temporary), path)
    elif here.exists():
        yield _checked(PretrainedCheckpoint(here, path), weights=weights)
    elif _HUB_ID.fullmatch(path) and not path.startswith("."):
        folder = snapshot(path, settings.revision, allow_network=allow_network)
        yield _checked(PretrainedCheckpoint(folder, path, revision=folder.name), weights=weights)
    else:
        raise RecipeError(f"no such folder: {here.absolute()}", where="model.path")


def _checked(checkpoint: PretrainedCheckpoint, *, weights: bool) -> PretrainedCheckpoint:
    """Refuses a folder that is not a complete model, or contains more than one model."""
    folder = checkpoint.folder
    if not folder.is_dir():
        raise RecipeError(f"{folder} is a file; give the folder of a model", where="model.path")
    has_config, has_adapter = (folder / "config.json").is_file(), (folder / _ADAPTER).is_file()
    if has_adapter and not has_config:
        raise RecipeError(
            f"{checkpoint.name} is an adapter ({_ADAPTER}), not a model; merge it into its base model "
            "(`fedfm export RUN --merge`, or peft's `merge_and_unload`) and give the folder of the result",
            where="model.path",
        )
    if has_adapter:
        raise RecipeError(
            f"{checkpoint.name} has an adapter ({_ADAPTER}) beside the model, and other programs would load the model "
            "with it; move the adapter's files to another folder, or merge the adapter into the model",
            where="model.path",
        )
    if not has_config:
        raise RecipeError(f"no config.json in {folder.absolute()}: not the folder of a model", where="model.path")
    if pointers := [file.name for file in sorted(folder.iterdir()) if _is_pointer(file)]:
        raise DataError(
            f"{checkpoint.name} has Git LFS pointers instead of its files ({', '.join(pointers)}): run "
            f"`git lfs install && git lfs pull` in {folder.absolute()}, or download the model with `hf download`"
        )
    if weights:
        weight_files(folder, checkpoint.name)
    return checkpoint


def _is_pointer(file: Path) -> bool:
    """Whether a file is a Git LFS pointer to a file that was not fetched."""
    if file.suffix not in _READ or not file.is_file() or file.stat().st_size > _POINTER_BYTES:
        return False
    with file.open("rb") as content:
        return content.read(len(_POINTER)) == _POINTER
