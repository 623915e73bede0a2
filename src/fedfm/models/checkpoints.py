"""Where a backbone's files are: hub id, local folder and builtin all become one folder of safetensors and JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fedfm.errors import RecipeError
from fedfm.models import builtin
from fedfm.models.hub import snapshot
from fedfm.models.settings import ModelSettings

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Checkpoint:
    """A backbone's files.

    Attributes:
        folder: has ``config.json`` and safetensors weights; temporary for random builtins.
        name: what an adapter's ``base_model_name_or_path`` says, by which others find the same backbone.
        revision: commit of a hub id.
    """

    folder: Path
    name: str
    revision: str | None = None


@contextmanager
def open_checkpoint(settings: ModelSettings, *, allow_network: bool = False) -> Iterator[Checkpoint]:
    """Finds a backbone's files, for as long as the block runs.

    Raises:
        RecipeError: at ``model.path`` (or ``model.revision``) when it is not there, or not there without the network,
            or has no config or no safetensors weights.
    """
    path, here = settings.path, Path(settings.path).expanduser()
    if settings.revision is not None and (path.startswith(builtin.PREFIX) or here.exists()):
        raise RecipeError(f"{path} has no revisions; only hub ids have", where="model.revision")
    if path == builtin.PREFIX + "minilm":
        yield Checkpoint(builtin.minilm_folder(), builtin.MINILM_NAME, builtin.MINILM_REVISION)
    elif path.startswith(builtin.PREFIX):
        with TemporaryDirectory(prefix="fedfm-") as temporary:
            builtin.write_random_model(path.removeprefix(builtin.PREFIX), Path(temporary))
            yield Checkpoint(Path(temporary), path)
    elif here.exists():
        yield _checked(Checkpoint(here, path))
    elif _HUB_ID.fullmatch(path) and not path.startswith("."):
        folder = snapshot(path, settings.revision, allow_network=allow_network)
        yield _checked(Checkpoint(folder, path, revision=folder.name))
    else:
        raise RecipeError(f"no such folder: {here.absolute()}", where="model.path")


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    """Refuses a folder without a config or without safetensors weights."""
    folder = checkpoint.folder
    if not folder.is_dir():
        raise RecipeError(f"{folder} is a file; name the folder of a model", where="model.path")
    if not (folder / "config.json").is_file():
        raise RecipeError(f"no config.json in {folder.absolute()}: not a model's folder", where="model.path")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        found = f"only pickled weights ({', '.join(pickled)}), which are never opened" if pickled else "no weights"
        raise RecipeError(f"{checkpoint.name} has {found}; it needs *.safetensors", where="model.path")
    return checkpoint
