"""Reads data sets of the Hugging Face hub, from its local cache or, if allowed, over the network."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
from datasets import Dataset
from datasets.exceptions import DatasetsError
from datasets.packaged_modules.cache.cache import Cache

from fedfm.data.cache import quiet
from fedfm.errors import RecipeError


def read_hub(name: str, split: str, *, where: str, allow_network: bool) -> Dataset:
    """One split of ``owner/name`` or ``owner/name/config``; code of the repository is never run.

    Raises:
        RecipeError: the data set is not in the cache and may not be downloaded, does not exist, or lacks the split or
            the configuration.
    """
    parts = name.split("/")
    if len(parts) > 3 or not all(re.fullmatch(r"\w[\w.-]*", part) for part in (*parts, split)):
        form = "hf:owner/name or hf:owner/name/config, with the name of a split after a colon where it is another one"
        raise RecipeError(f"`hf:{name}` is not of the form {form}", where=where)
    repository, config = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    if allow_network and Path(repository).exists():
        raise RecipeError(
            f"hf:{name}: the folder {Path(repository).absolute()} exists, and `datasets` would read it instead of the "
            "hub; start fedfm in another folder",
            where=where,
        )
    try:
        with quiet():
            if allow_network:
                return datasets.load_dataset(repository, config, split=split)
            builder = Cache(
                dataset_name=repository.split("/")[-1],
                repo_id=repository,
                config_name=config,
                version="auto",
                hash="auto",
            )
            return builder.as_dataset(split=split)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(
            str(error).splitlines()[:2]
        )  # the second line lists the available names; a third one shows code
        if not allow_network:
            reason += "; set allow_network: true to download it"
        raise RecipeError(f"hf:{name}: {reason}", where=where) from error
