"""Suggests known keys for an unknown key of a recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedfm.recipe.fields import ELEMENT, all_keys
from fedfm.settings import Settings
from fedfm.spelling import nearest

SYNONYMS = {
    "clients_per_round": "federation.per_round",
    "dataset": "data.train",
    "fraction_fit": "federation.per_round",
    "lr": "local.learning_rate",
    "lr_scheduler": "local.lr_scheduler_type",
    "max_seq_length": "data.max_length",
    "model_name_or_path": "model.path",
    "num_clients": "federation.clients",
    "num_rounds": "federation.rounds",
    "num_train_epochs": "local.epochs",
    "output_dir": "output",
    "per_device_train_batch_size": "local.batch_size",
}
"""Name of a key in similar tools → our dotted key."""


def unknown_key(name: str, group: str, siblings: Sequence[type[Settings]], model: type[Settings]) -> str:
    """Says what to write instead of an unknown key.

    Args:
        name: the key.
        group: the dotted group that it was found in.
        siblings: the classes of that group.
        model: the class of the whole recipe.
    """
    keys = list(all_keys(model))
    group = re.sub(r"\[\d+\]", ELEMENT, group)
    kinds = [key.kind for key in keys if (key.group, key.name) == (group, name) and key.kind]
    if kinds:
        return f"not a setting of this kind; it belongs to {', '.join(kinds)}"
    home = next((key.group for key in keys if key.name == name and ELEMENT not in key.group), None)
    if home is not None:
        return "unknown key — it belongs " + (f"under `{home}`" if home else "at the top of the recipe")
    known = [key for group_class in siblings for key in group_class.model_fields]
    meant = SYNONYMS.get(name) or nearest(name, known) or _elsewhere(name, model)
    return f"unknown key — did you mean `{meant}`?" if meant else f"unknown key; known here: {', '.join(known)}"


def dotted_key(name: str, model: type[Settings], *, exactly: bool = False) -> str | None:
    """The dotted key with this name, here or in similar tools; otherwise, unless ``exactly``, the most similar key."""
    keys = {key.where: key.name for key in all_keys(model) if ELEMENT not in key.group}
    called = name if name in keys else next((dotted for dotted, last in keys.items() if last == name), None)
    known = SYNONYMS.get(name) or called
    return known if exactly or known else _elsewhere(name, model) or nearest(name, keys)


def _elsewhere(name: str, model: type[Settings]) -> str | None:
    """The dotted key of another group that is very similar to ``name``; of several, the first in the schema."""
    dotted = {key.name: key.where for key in reversed(list(all_keys(model))) if ELEMENT not in key.group}
    close = nearest(name, dotted, cutoff=0.8)
    return dotted[close] if close else None
