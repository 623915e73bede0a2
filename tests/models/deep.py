"""Tiny models with more layers than the built-in ones, and their tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from fedfm.models.backbones import Backbone
from fedfm.models.builtin import RANDOM_MODELS
from fedfm.models.families import family_of
from tests.models.cases import TASKS, load


def deep(name: str, task: str, layers: int) -> Backbone:
    """A builtin's architecture, ``layers`` deep, with random weights."""
    config: Any = RANDOM_MODELS[name].config()
    for part in (config, getattr(config, "text_config", None), getattr(config, "vision_config", None)):
        if part is not None and hasattr(part, "num_hidden_layers"):
            part.num_hidden_layers = layers
    torch.manual_seed(0)
    return of_model(TASKS[task].auto_class.from_config(config), load(name, task))


def of_model(model: PreTrainedModel, like: Backbone) -> Backbone:
    """A model with its head, read as another backbone's."""
    model.eval().requires_grad_(False)
    family = family_of(model.config)
    head = tuple(name for name in family.heads if name in dict(model.named_modules()))
    return replace(like, model=model, family=family, name="made-here", head=head, new_head=())
