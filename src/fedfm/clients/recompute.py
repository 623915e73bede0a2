"""Activations that are computed again in the backward pass instead of stored: less memory, more time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

from fedfm.clients.memory import give_back_at_once
from fedfm.clients.settings import Recompute
from fedfm.models.families import blocks, family_of
from fedfm.models.tunable import Tunable


@contextmanager
def recomputing(tunable: Tunable, what: Recompute) -> Iterator[None]:
    """Keeps only the inputs of these parts of the model while the block runs; gradients stay the same.

    After that the process also returns memory to the system as soon as it is free.

    Attention keeps most of what a frozen backbone's backward pass needs and is a third of its operations
    (Korthikanti et al., arXiv:2205.05198, §5); of whole blocks least is kept.
    """
    if what == "none":
        yield
        return
    give_back_at_once()
    modules, configs = _modules(tunable, what), _caching_configs(tunable)
    try:
        for config in configs:
            config.use_cache = False  # computed twice, keys and values would be cached twice
        for module in modules:
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)
        for config in configs:
            config.use_cache = True


def _modules(tunable: Tunable, what: Recompute) -> list[nn.Module]:
    model = tunable.base_model
    found = blocks(model, family_of(model.config))
    if what == "blocks":
        return [block.module for block in found]
    return [block.module.get_submodule(part.path) for block in found for part in block.stack.attention]


def _caching_configs(tunable: Tunable) -> list[PretrainedConfig]:
    """Configurations of the model's parts that turn on the cache of keys and values."""
    configs = {id(config): config for part in tunable.base_model.modules() if (config := getattr(part, "config", None))}
    return [config for config in configs.values() if getattr(config, "use_cache", False)]
