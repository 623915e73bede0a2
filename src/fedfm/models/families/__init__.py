"""Families of architectures: the paths of blocks, attention, FFN, norms, embeddings and heads in each.

All code that depends on the inside of a model uses these descriptions: which modules get an adapter, which neurons a
proxy drops, which layers a client trains. To add a family, write its row; the tests compare it with the model itself.

Paths are dotted module names. Paths of a block's parts start at the block; those of stacks, embeddings and norms start
at the *base* model (`PreTrainedModel.base_model`: BERT without its task head); those of heads start at the whole model.
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
from fedfm.models.families.encoder_decoders import BART, T5, T5_GATED
from fedfm.models.families.encoders import ALBERT, BERT, DEBERTA, DISTILBERT, ELECTRA, MODERNBERT, MPNET, ROBERTA
from fedfm.models.families.parts import FFN, Attention, Block, Family, Stack
from fedfm.models.families.targets import all_targets, attention_targets, ffn_targets, pattern, targets
from fedfm.models.families.two_towers import TWO_TOWERS, joined
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
        BART,
    )
}

_ENCODER_DECODER = "the encoder-decoders of this version are T5 and BART"
_AUDIO = "they read audio, which no task in this version uses"
_REFUSED = {
    "whisper": _AUDIO,
}
"""Model type whose classes would fit a task → why it cannot be a backbone."""

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
    """Refuses a transformers ``model_type`` that cannot be a backbone, before other parts of the model are read.

    Raises:
        RecipeError: at ``model.path``: the type is not supported; with the reason.
    """
    if reason := _REFUSED.get(model_type):
        raise RecipeError(f"models of type `{model_type}` are not supported: {reason}", where="model.path")
    if model_type not in CONFIG_MAPPING:
        raise RecipeError(
            f"transformers {transformers.__version__} has no models of type `{model_type}`; fedfm does not run code "
            "from repositories of models",
            where="model.path",
        )


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model, by its config; a family without stacks if the type has no description.

    Raises:
        RecipeError: at ``model.path``: the type is not supported.
    """
    check_type(config.model_type)
    if config.model_type == TWO_TOWERS:
        return joined(family_of(config.vision_config), family_of(config.text_config))
    for family in FAMILIES.values():
        if config.model_type in family.model_types and (family.when is None or family.when(config)):
            return family
    if config.is_encoder_decoder:
        raise RecipeError(
            f"models of type `{config.model_type}` are not supported: {_ENCODER_DECODER}", where="model.path"
        )
    return Family(
        config.model_type, (config.model_type,), stacks=(), embeddings=(), first_position=_assumed_first_position
    )


def _assumed_first_position(config: PretrainedConfig) -> int:
    """The first position of a text if the model counts from the padding id, as RoBERTa does; a safe assumption."""
    pad = config.get_text_config().pad_token_id
    return pad + 1 if isinstance(pad, int) and pad < 8 else 0


def blocks(model: PreTrainedModel, family: Family) -> list[Block]:
    """The blocks of a model, first to last; skips stacks that the model does not have (such as CLIP's text stack)."""
    base = dict(model.base_model.named_modules())
    return [
        Block(f"{stack.path}.{name}", module, stack)
        for stack in family.stacks
        if stack.path in base
        for name, module in base[stack.path].named_children()
    ]
