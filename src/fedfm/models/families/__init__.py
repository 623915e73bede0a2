"""Families of architectures: where blocks, attention, FFN, norms, embeddings and heads live in each.

Everything that must know the inside of a model asks here: which modules an adapter goes into, which neurons a proxy
drops, which layers a client trains. Adding a family: write its row; the tests hold it against the model itself.

Paths are dotted module names. Those of a block's parts start at the block; those of stacks, embeddings and norms
start at the *base* model (`PreTrainedModel.base_model`: BERT without its task head); those of heads start at the
model that has the head.
"""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedModel

from fedfm.errors import RecipeError
from fedfm.models.families.decoders import GEMMA2, GEMMA3, GPT2, GPT_NEOX, LLAMA, OPT, OPT_POST_NORM, PHI3, QWEN3
from fedfm.models.families.encoder_decoders import T5, T5_GATED
from fedfm.models.families.encoders import BERT, DEBERTA, DISTILBERT, ELECTRA, ROBERTA
from fedfm.models.families.parts import FFN, Attention, Block, Family, Stack
from fedfm.models.families.targets import all_targets, attention_targets, ffn_targets, pattern, targets
from fedfm.models.families.vision import CLIP, VIT

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        BERT,
        ROBERTA,
        ELECTRA,
        DEBERTA,
        DISTILBERT,
        VIT,
        CLIP,
        GPT2,
        GPT_NEOX,
        OPT,
        OPT_POST_NORM,
        LLAMA,
        QWEN3,
        GEMMA2,
        GEMMA3,
        PHI3,
        T5,
        T5_GATED,
    )
}

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
    """Refuses a transformers ``model_type`` of no family.

    Raises:
        RecipeError: at ``model.path``; lists those known.
    """
    known = dict.fromkeys(known for family in FAMILIES.values() for known in family.model_types)
    if model_type not in known:
        raise RecipeError(
            f"models of type `{model_type}` are not supported; known: {', '.join(known)}", where="model.path"
        )


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model, by its config.

    Raises:
        RecipeError: at ``model.path`` when no family has its type.
    """
    check_type(config.model_type)
    return next(
        family
        for family in FAMILIES.values()
        if config.model_type in family.model_types and (family.when is None or family.when(config))
    )


def blocks(model: PreTrainedModel, family: Family) -> list[Block]:
    """The blocks of a model, first to last; a stack that this model leaves out (CLIP's text) is skipped."""
    base = dict(model.base_model.named_modules())
    return [
        Block(f"{stack.path}.{name}", module, stack)
        for stack in family.stacks
        if stack.path in base
        for name, module in base[stack.path].named_children()
    ]
