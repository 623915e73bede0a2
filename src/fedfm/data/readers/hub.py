"""Data sets of the Hugging Face hub, from its shared local cache or, where allowed, over the network."""

from __future__ import annotations

import datasets
from datasets import Dataset
from datasets.exceptions import DatasetNotFoundError
from datasets.packaged_modules.cache.cache import Cache

from fedfm.data.cache import quiet
from fedfm.errors import RecipeError


def read_hub(name: str, split: str, *, where: str, allow_network: bool) -> Dataset:
    """One split of ``owner/name`` or ``owner/name/config``; no code of the repository is ever run.

    Raises:
        RecipeError: when it is not here and may not be fetched, does not exist, or lacks the split or configuration.
    """
    *repository, config = name.split("/") if name.count("/") == 2 else (name, None)
    repo_id = "/".join(part for part in repository if part)
    if not repo_id or name.count("/") > 2:
        raise RecipeError(f"`hf:{name}` is not of the form hf:owner/name or hf:owner/name/config", where=where)
    try:
        with quiet():
            if allow_network:
                return datasets.load_dataset(repo_id, config, split=split)
            cached = Cache(
                dataset_name=repo_id.split("/")[-1], repo_id=repo_id, config_name=config, version="auto", hash="auto"
            )
            return cached.as_dataset(split=split)
    except (DatasetNotFoundError, ConnectionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if not allow_network and "cached" in reason:
            reason = "not in the local cache; set allow_network: true to download it"
        raise RecipeError(f"hf:{name}: {reason}", where=where) from error
