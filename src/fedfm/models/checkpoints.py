"""Where a backbone's files are: hub id, local folder and builtin all become one folder of safetensors and JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from fedfm.errors import RecipeError
from fedfm.models import builtin
from fedfm.models.quiet import quiet
from fedfm.models.settings import ModelSettings

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_NOT_FILES = ["*/*", "consolidated*"]


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
    path = settings.path
    local = path.startswith(builtin.PREFIX) or Path(path).expanduser().exists()
    if local and settings.revision is not None:
        raise RecipeError(f"{path} has no revisions; only hub ids have", where="model.revision")
    if path.startswith(builtin.PREFIX):
        name = path.removeprefix(builtin.PREFIX)
        builtin.check_name(name)
        if name == "minilm":
            yield Checkpoint(builtin.minilm_folder(), builtin.MINILM_NAME, builtin.MINILM_REVISION)
            return
        with TemporaryDirectory(prefix="fedfm-") as temporary:
            builtin.write_random_model(name, Path(temporary))
            yield Checkpoint(Path(temporary), path)
    elif Path(path).expanduser().exists():
        yield _checked(Checkpoint(Path(path).expanduser(), path))
    elif _HUB_ID.fullmatch(path) and not path.startswith("."):
        yield _checked(_from_hub(settings, allow_network))
    else:
        raise RecipeError(f"no such folder: {Path(path).expanduser().absolute()}", where="model.path")


def _from_hub(settings: ModelSettings, allow_network: bool) -> Checkpoint:
    """The snapshot of a hub id in the Hugging Face cache, filled over the network only when that is allowed."""
    name, revision = settings.path, settings.revision
    at = f" at revision {revision}" if revision else ""
    fetch = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    try:
        with quiet():
            folder = snapshot_download(
                name,
                revision=revision,
                local_files_only=not allow_network,
                allow_patterns=_FILES,
                ignore_patterns=_NOT_FILES,
            )
    except GatedRepoError as error:
        raise RecipeError(
            f"{name} is gated: accept its terms on its page, then `hf auth login`", where="model.path"
        ) from error
    except RepositoryNotFoundError as error:
        raise RecipeError(
            f"no model {name} on the hub, or it is private: `hf auth login`", where="model.path"
        ) from error
    except RevisionNotFoundError as error:
        raise RecipeError(f"{name} has no revision {revision}", where="model.revision") from error
    except LocalEntryNotFoundError as error:
        advice = "check the network" if allow_network else f"run `{fetch}` or set `allow_network: true`"
        places = "neither as a folder nor in the Hugging Face cache"
        raise RecipeError(f"{name}{at} was not found locally, {places}; {advice}", where="model.path") from error
    except HfHubHTTPError as error:
        raise RecipeError(f"the hub did not give {name}{at}: {error}", where="model.path") from error
    return Checkpoint(Path(folder), name, revision=Path(folder).name)


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
