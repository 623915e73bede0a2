"""Models of images and texts made of two others, as transformers' `VisionTextDualEncoderModel`: a tower for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from transformers import PretrainedConfig

from fedfm.models.families.parts import Family, Stack

TWO_TOWERS = "vision-text-dual-encoder"
"""transformers' ``model_type`` of such a model."""
IMAGE, TEXT = "vision_model", "text_model"
"""Paths of the towers, in these models and in CLIP."""
PROJECTIONS = ("visual_projection", "text_projection")
"""Paths of the linear maps from the towers' outputs to the common space; they are its head."""


def joined(image: Family, text: Family) -> Family:
    """The family of a model with these towers; without stacks if one of them has no description.

    A pooler that a checkpoint lacks is new, and trained with the head.
    """
    towers = ((IMAGE, image), (TEXT, text))
    base = Family(TWO_TOWERS, (TWO_TOWERS,), stacks=(), embeddings=(), heads=PROJECTIONS, modality="image-text")
    if not (image.is_described and text.is_described):
        return base
    return replace(
        base,
        stacks=tuple(_under(path, stack) for path, family in towers for stack in family.stacks),
        embeddings=tuple(f"{path}.{part}" for path, family in towers for part in family.embeddings),
        final_norms=tuple(f"{path}.{part}" for path, family in towers for part in family.final_norms),
        beside_blocks=tuple(f"{path}.{part}" for path, family in towers for part in family.beside_blocks),
        language_heads=tuple(f"{path}.pooler" for path, _ in towers),
        reads_positions=text.reads_positions,
        repeats_blocks=text.repeats_blocks,
        first_position=_of_text(text.first_position),
    )


def _under(path: str, stack: Stack) -> Stack:
    return replace(stack, path=f"{path}.{stack.path}")


def _of_text(position: Callable[[PretrainedConfig], int] | None) -> Callable[[PretrainedConfig], int] | None:
    """A function of the text tower's config as one of the whole config."""
    return None if position is None else lambda config: position(config.get_text_config())
