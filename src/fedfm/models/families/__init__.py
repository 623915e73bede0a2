"""Families of architectures: where blocks, attention, FFN, norms, embeddings and heads live in each.

Everything that must know the inside of a model asks here: which modules an adapter goes into, which neurons a proxy
drops, which layers a client trains. Adding a family: write its row; the tests hold it against the model itself.

Paths are dotted module names. Those of a block's parts start at the block; those of stacks, embeddings and norms
start at the *base* model (`PreTrainedModel.base_model`: BERT without its task head); those of heads start at the
model that has the head.
"""

from __future__ import annotations

import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from fedfm.errors import RecipeError
from fedfm.models.families.decoders import (
    GEMMA2,
    GEMMA3,
    GPT2,
    GPT_NEOX,
    LLAMA,
    MIXTRAL,
    OLMO2,
    OPT,
    OPT_POST_NORM,
    PHI,
    PHI3,
    QWEN3,
    QWEN3_MOE,
)
from fedfm.models.families.encoder_decoders import T5, T5_GATED
from fedfm.models.families.encoders import ALBERT, BERT, DEBERTA, DISTILBERT, ELECTRA, MODERNBERT, MPNET, ROBERTA
from fedfm.models.families.parts import FFN, Attention, Block, Family, Stack
from fedfm.models.families.targets import all_targets, attention_targets, ffn_targets, pattern, targets
from fedfm.models.families.vision import CLIP, DINOV2, DINOV2_GATED, SIGLIP, VIT

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        BERT,
        ROBERTA,
        ELECTRA,
        DEBERTA,
        DISTILBERT,
        MPNET,
        MODERNBERT,
        ALBERT,
        VIT,
        DINOV2,
        DINOV2_GATED,
        CLIP,
        SIGLIP,
        GPT2,
        GPT_NEOX,
        OPT,
        OPT_POST_NORM,
        LLAMA,
        QWEN3,
        GEMMA2,
        GEMMA3,
        OLMO2,
        PHI,
        PHI3,
        MIXTRAL,
        QWEN3_MOE,
        T5,
        T5_GATED,
    )
}

_ENCODER_DECODER = "of encoders with a decoder, this version has T5"
_AUDIO = "they read audio, and no task of this version does"
_REFUSED = {
    "bart": _ENCODER_DECODER,
    "whisper": _AUDIO,
}
"""Model types whose own classes would fit some task, and why they are not backbones."""

__all__ = [
    "FAMILIES",
    "FFN",
    "Attention",
    "Block",
    "Family",
    "Stack",
    "all_targets",
    "attention_targets",
    "blocks",
    "check_type",
    "family_of",
    "ffn_targets",
    "pattern",
    "targets",
]


def check_type(model_type: str) -> None:
    """Refuses a transformers ``model_type`` that cannot be a backbone, before anything else of the model is read.

    Raises:
        RecipeError: at ``model.path``, with the reason.
    """
    if reason := _REFUSED.get(model_type):
        raise RecipeError(f"models of type `{model_type}` are not supported: {reason}", where="model.path")
    if model_type not in CONFIG_MAPPING:
        raise RecipeError(
            f"transformers {transformers.__version__} knows no models of type `{model_type}`; the code that some "
            "repositories bring is not run",
            where="model.path",
        )


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model, by its config; one without stacks where nobody has described the type.

    Raises:
        RecipeError: at ``model.path`` when the type is not supported.
    """
    check_type(config.model_type)
    for family in FAMILIES.values():
        if config.model_type in family.model_types and (family.when is None or family.when(config)):
            return family
    if config.is_encoder_decoder:
        raise RecipeError(
            f"models of type `{config.model_type}` are not supported: {_ENCODER_DECODER}", where="model.path"
        )
    return Family(
        config.model_type, (config.model_type,), stacks=(), embeddings=(), first_position=_perhaps_after_padding
    )


def _perhaps_after_padding(config: PretrainedConfig) -> int:
    """The latest position that a text may start at, in encoders that count from the padding id as RoBERTa does."""
    pad = config.get_text_config().pad_token_id
    return pad + 1 if isinstance(pad, int) and pad < 8 else 0


def blocks(model: PreTrainedModel, family: Family) -> list[Block]:
    """The blocks of a model, first to last; a stack that this model leaves out (CLIP's text) is skipped."""
    base = dict(model.base_model.named_modules())
    return [
        Block(f"{stack.path}.{name}", module, stack)
        for stack in family.stacks
        if stack.path in base
        for name, module in base[stack.path].named_children()
    ]
