"""Whether a model is within a site's policy. Its config is read as plain JSON, before anything is built from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fedfm.errors import DataError
from fedfm.models.configs import read_config
from fedfm.models.quiet import quiet
from fedfm.models.settings import ModelSettings
from fedfm.models.towers import open_checkpoint
from fedfm.sites.disclosure import PolicyError
from fedfm.sites.policy import Objection, Policy

_LIMITED = {
    "max_layers": re.compile(r"(layers?|depths?|blocks|experts)$"),
    "max_image_size": re.compile(r"(^height|^width|edge|image_size)$"),
}
"""Key of the policy → keys of a model's files; the policy limits their numbers."""

_FILES = ("config.json", "preprocessor_config.json")


def check_files(folder: Path, policy: Policy) -> None:
    """Checks the numbers in the JSON files of a model.

    Args:
        folder: of the model.
        policy: of the site.

    Raises:
        PolicyError: they are above a limit.
        DataError: a file is not JSON.
    """
    found: list[Objection] = []
    for name in _FILES:
        file = folder / name
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} is not JSON: {error}") from error
        for key, number in _numbers(content):
            for limit, pattern in _LIMITED.items():
                if pattern.search(key):
                    found += policy.over(limit, number)
    if found:
        raise PolicyError(
            f"outside this site's policy ({'; '.join(dict.fromkeys(map(str, found)))})", [of.key for of in found]
        )


def check_model(settings: ModelSettings, auto_class: Any, policy: Policy, *, allow_network: bool) -> None:
    """Checks the size of a backbone from its config, before its weights are read.

    Args:
        settings: where the backbone is.
        auto_class: the task's class, e.g. ``transformers.AutoModelForSequenceClassification``.
        policy: of the site.
        allow_network: whether it may be fetched from a hub.

    Raises:
        PolicyError: it is larger than the policy allows.
        RecipeError: at ``model.path``, when it is not there.
        DataError: when its files are damaged.
    """
    with open_checkpoint(settings, allow_network=allow_network) as checkpoint:
        check_files(checkpoint.folder, policy)
        config = read_config(checkpoint)
    if type(config) not in auto_class._model_mapping:
        return  # such a model is refused when it is loaded
    with quiet(), torch.device("meta"):
        model = auto_class.from_config(config, trust_remote_code=False)
    if found := policy.over("max_parameters", model.num_parameters()):
        raise PolicyError(f"outside this site's policy ({found[0]})", [found[0].key])


def _numbers(tree: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Every number, as a whole number, with the name of its key; the length of a list counts as a number too."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _numbers(value, str(name))
    elif isinstance(tree, list):
        yield key, len(tree)
        for value in tree:
            yield from _numbers(value, key)
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield key, int(tree) if abs(tree) < float("inf") else 2**63
