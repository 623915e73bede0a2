"""Finds the files of a model of the Hugging Face hub, in its local cache or, if allowed, over the network."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from fedfm.errors import RecipeError, StorageError
from fedfm.models.quiet import quiet

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_NOT_FILES = ["*/*", "consolidated*", "adapter_*"]

# The error of the hub client's HTTP library for a broken connection; the library depends on the client's version.
_HTTPError: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def snapshot(name: str, revision: str | None, *, allow_network: bool) -> Path:
    """The folder of one commit of a hub id; the name of the folder is the commit's hash.

    Raises:
        RecipeError: at ``model.path`` or ``model.revision``: the model does not exist, or would need the network.
        StorageError: the cache cannot be written.
    """
    asked = f"{name} at revision {revision}" if revision else name
    try:
        with quiet():
            folder = snapshot_download(
                name,
                revision=revision,
                local_files_only=not allow_network,
                allow_patterns=_FILES,
                ignore_patterns=_NOT_FILES,
            )
    except HFValidationError as error:
        raise _refusal(f"{name} is neither a folder nor a hub id: {error}") from error
    except GatedRepoError as error:
        raise _refusal(f"{name} is gated: accept its terms on its page, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise _refusal(f"no model {name} on the hub, or it is private: `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise RecipeError(f"{name} has no revision {revision}", where="model.revision") from error
    except LocalEntryNotFoundError as error:
        raise _refusal(f"{asked} was not found locally, {_advice(name, revision, allow_network)}") from error
    except _HTTPError as error:
        raise _refusal(f"{asked} cannot be downloaded from the hub: {error}") from error
    except OSError as error:
        raise StorageError(f"{asked} cannot be written to the Hugging Face cache: {error}") from error
    return Path(folder)


def _refusal(message: str) -> RecipeError:
    return RecipeError(message, where="model.path")


def _advice(name: str, revision: str | None, allow_network: bool) -> str:
    """Says where the model was searched, and what to do."""
    if allow_network:
        return "and the hub cannot be reached; check the network and `HF_HUB_OFFLINE`"
    fetch = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return f"neither as a folder nor in the Hugging Face cache; run `{fetch}` or set `allow_network: true`"
