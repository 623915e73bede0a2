"""Finds the matrices of a model without a description, by their names.

These are the linear layers inside numbered lists of blocks: those with "attention" in their names, and the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn
from transformers.pytorch_utils import Conv1D

from fedfm.models.backbones import Backbone

_ATTENTION = re.compile(r"att(entio)?n", re.IGNORECASE)
_IN_A_BLOCK = re.compile(r"(?:.*\.)?\d+\.(?P<inside>.+)")


def attention_by_name(backbone: Backbone) -> list[str]:
    """Linear layers of every block with "attention" in their paths, as peft's ``target_modules``."""
    return _endings(backbone, attention=True)


def others_by_name(backbone: Backbone) -> list[str]:
    """The other linear layers of every block, as peft's ``target_modules``."""
    return _endings(backbone, attention=False)


def all_by_name(backbone: Backbone) -> list[str]:
    """All linear layers of every block, as peft's ``target_modules``."""
    return [*attention_by_name(backbone), *others_by_name(backbone)]


def _endings(backbone: Backbone, *, attention: bool) -> list[str]:
    """Names relative to the block if they match only these layers, otherwise full names."""
    layers = dict(_linear_layers(backbone))
    chosen = {name: inside for name, inside in layers.items() if bool(_ATTENTION.search(name)) == attention}
    others = layers.keys() - chosen.keys()
    endings = list(dict.fromkeys(chosen.values()))
    if any(other.endswith(f".{ending}") for other in others for ending in endings):
        return list(chosen)
    return endings


def _linear_layers(backbone: Backbone) -> Iterator[tuple[str, str]]:
    """The full name of each linear layer inside a block, and its name relative to the block."""
    for name, module in backbone.model.named_modules():
        found = _IN_A_BLOCK.fullmatch(name)
        if found and isinstance(module, nn.Linear | Conv1D):
            yield name, found["inside"]
