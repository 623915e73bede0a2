"""Embeddings of images and texts by a model of two towers, and classification by the names of classes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedfm.errors import RecipeError
from fedfm.tasks.base import Batch

TEMPLATE = "a photo of a {}."
"""CLIP's own."""
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def image_embeddings(model: nn.Module, pixels: Tensor) -> Tensor:
    """Embeddings of images, ``[B, d]``, not yet of length 1.

    Args:
        model: a `CLIPModel` or a `VisionTextDualEncoderModel`, with a tunable attached or without.
        pixels: ``[B, C, H, W]``.
    """
    found: Tensor = model.get_image_features(pixel_values=pixels).pooler_output  # type: ignore[operator]
    return found


def text_embeddings(model: nn.Module, batch: Batch) -> Tensor:
    """Embeddings of texts, ``[B, d]``, not yet of length 1; ``batch`` is what their tokenizer returns."""
    inputs = {name: batch[name] for name in _TEXT_INPUTS if name in batch}
    found: Tensor = model.get_text_features(**inputs).pooler_output  # type: ignore[operator]
    return found


def scale_of(model: nn.Module) -> Tensor:
    """1/τ of a model."""
    scale: Tensor = model.logit_scale  # type: ignore[assignment]
    return scale.exp()


def class_embeddings(model: nn.Module, tokenizer: Any, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One embedding of length 1 for each class, ``[classes, d]``: the mean of those of its prompts, as CLIP §3.1.4.

    Args:
        model: as in `image_embeddings`.
        tokenizer: of its texts.
        names: of the classes.
        templates: each with ``{}`` where the name of the class comes.

    Raises:
        RecipeError: a template has no place for a name, or more than one.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise RecipeError(f"`{template}` must have one {{}}, where the name of a class comes", where="template")
    device = next(model.parameters()).device
    rows = []
    for name in names:
        prompts = [template.replace("{}", name) for template in templates]
        batch = tokenizer(prompts, padding=True, truncation=True, return_tensors="pt").to(device)
        rows.append(normalize(text_embeddings(model, batch), dim=-1).mean(0))
    return normalize(torch.stack(rows), dim=-1)


def zero_shot_logits(model: nn.Module, pixels: Tensor, classes: Tensor) -> Tensor:
    """Logits of classes for images, ``[B, classes]``: cosines over τ, a CLIP model's ``logits_per_image``.

    Radford et al., arXiv:2103.00020, §3.1.2.

    Args:
        model: as in `image_embeddings`.
        pixels: ``[B, C, H, W]``.
        classes: of `class_embeddings`.
    """
    return scale_of(model) * normalize(image_embeddings(model, pixels), dim=-1) @ classes.T
