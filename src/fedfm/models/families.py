"""Families of architectures: where blocks, attention, FFN, norms, embeddings and heads live in each.

Everything that must know the inside of a model asks here: which modules an adapter goes into, which neurons a proxy
drops, which layers a client trains. Adding a family: write its row; the tests hold it against the model itself.

Paths are dotted module names. Those of a block's parts start at the block; those of stacks, embeddings and norms
start at the *base* model (`PreTrainedModel.base_model`: BERT without its task head); those of heads start at the
model that has the head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from fedfm.errors import RecipeError


@dataclass(frozen=True)
class Attention:
    """The projections of one attention, each d → its heads, then back to d.

    Attributes:
        transposed: weights are stored ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]``.
    """

    query: str
    key: str
    value: str
    output: str
    transposed: bool = False

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one matrix, stacked in that order on the output axis."""
        return self.query == self.key

    @property
    def inputs(self) -> tuple[str, ...]:
        """The projections that read the hidden state, each once."""
        return (self.query,) if self.fused else (self.query, self.key, self.value)


@dataclass(frozen=True)
class FFN:
    """A feed-forward network of m neurons: every input matrix maps d → m, the output matrix m → d.

    Neuron j is row j of each input matrix and column j of the output matrix; the other way round where
    ``transposed`` (GPT-2's Conv1D stores ``[in, out]``).

    Attributes:
        inputs: one matrix, or two when gated (Llama: gate and up).
        fused: gate and up are one matrix of 2m rows, gate first (Phi-3): neuron j is rows j and m + j.
    """

    inputs: tuple[str, ...]
    output: str
    transposed: bool = False
    fused: bool = False


@dataclass(frozen=True)
class Stack:
    """One list of blocks of the same make.

    Attributes:
        path: the list, from the base model.
        attention: self-attention, then cross-attention where there is one.
        ffn: its feed-forward network.
        norms: every norm of a block.
        ffn_norm: the one of them that takes the sum of FFN and residual (BERT); none where norms come before.
    """

    path: str
    attention: tuple[Attention, ...]
    ffn: FFN
    norms: tuple[str, ...]
    ffn_norm: str | None = None

    @property
    def attention_matrices(self) -> tuple[str, ...]:
        """Query, key, value and output projections."""
        return tuple(path for attention in self.attention for path in (*attention.inputs, attention.output))

    @property
    def ffn_matrices(self) -> tuple[str, ...]:
        """Input matrices, then the output matrix."""
        return (*self.ffn.inputs, self.ffn.output)

    @property
    def matrices(self) -> tuple[str, ...]:
        """Every weight matrix of a block: attention, then FFN."""
        return (*self.attention_matrices, *self.ffn_matrices)


@dataclass(frozen=True)
class Block:
    """One block of a model.

    Attributes:
        path: of the block, from the base model, e.g. ``encoder.layer.3``.
        module: the block.
        stack: where its parts are.
    """

    path: str
    module: nn.Module
    stack: Stack


@dataclass(frozen=True)
class Family:
    """One architecture, shared by all ``model_types`` whose module names agree.

    Attributes:
        stacks: the lists of blocks, in the order of the data's way; CLIP has two, text then vision.
        embeddings: modules before the first block.
        final_norms: norms after the last block, where the model has one.
        heads: modules that turn features into labels; a pretrained checkpoint usually lacks them.
        language_heads: modules between the last block and the vocabulary, without the tied output matrix.
        pooler: the base model's pooler when the classification head reads it and a checkpoint may lack it.
        causal: whether position t sees only positions up to t.
    """

    name: str
    model_types: tuple[str, ...]
    stacks: tuple[Stack, ...]
    embeddings: tuple[str, ...]
    final_norms: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    language_heads: tuple[str, ...] = ()
    pooler: str | None = None
    causal: bool = False
    modality: Literal["text", "image", "image-text"] = "text"


_BERT = Family(
    name="bert",
    model_types=("bert",),
    stacks=(
        Stack(
            "encoder.layer",
            attention=(
                Attention(
                    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"
                ),
            ),
            ffn=FFN(("intermediate.dense",), "output.dense"),
            norms=("attention.output.LayerNorm", "output.LayerNorm"),
            ffn_norm="output.LayerNorm",
        ),
    ),
    embeddings=("embeddings",),
    heads=("classifier",),
    language_heads=("cls.predictions.transform",),
    pooler="pooler",
)
_VIT = Family(
    name="vit",
    model_types=("vit", "deit"),
    stacks=(
        Stack(
            "layers",
            attention=(Attention("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),),
            ffn=FFN(("mlp.fc1",), "mlp.fc2"),
            norms=("layernorm_before", "layernorm_after"),
        ),
    ),
    embeddings=("embeddings",),
    final_norms=("layernorm",),
    heads=("classifier", "cls_classifier", "distillation_classifier"),
    modality="image",
)
_LLAMA_STACK = Stack(
    "layers",
    attention=(Attention("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),),
    ffn=FFN(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    norms=("input_layernorm", "post_attention_layernorm"),
)
_LLAMA = Family(
    name="llama",
    model_types=("llama", "mistral", "qwen2"),
    stacks=(_LLAMA_STACK,),
    embeddings=("embed_tokens",),
    final_norms=("norm",),
    heads=("score",),
    language_heads=("lm_head",),
    causal=True,
)
Parts = Callable[[Stack], Sequence[str]]
"""Chooses parts of a stack's blocks by their paths."""

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _BERT,
        replace(
            _BERT,
            name="roberta",
            model_types=("roberta",),
            language_heads=("lm_head.dense", "lm_head.layer_norm"),
            pooler=None,
        ),
        replace(
            _BERT,
            name="electra",
            model_types=("electra",),
            embeddings=("embeddings", "embeddings_project"),
            language_heads=("generator_predictions",),
            pooler=None,
        ),
        Family(
            name="distilbert",
            model_types=("distilbert",),
            stacks=(
                Stack(
                    "transformer.layer",
                    attention=(
                        Attention("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
                    ),
                    ffn=FFN(("ffn.lin1",), "ffn.lin2"),
                    norms=("sa_layer_norm", "output_layer_norm"),
                    ffn_norm="output_layer_norm",
                ),
            ),
            embeddings=("embeddings",),
            heads=("pre_classifier", "classifier"),
            language_heads=("vocab_transform", "vocab_layer_norm"),
        ),
        _VIT,
        Family(
            name="clip",
            model_types=("clip",),
            stacks=tuple(
                Stack(
                    f"{tower}.encoder.layers",
                    attention=(
                        Attention("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
                    ),
                    ffn=FFN(("mlp.fc1",), "mlp.fc2"),
                    norms=("layer_norm1", "layer_norm2"),
                )
                for tower in ("text_model", "vision_model")
            ),
            embeddings=("text_model.embeddings", "vision_model.embeddings", "vision_model.pre_layrnorm"),
            final_norms=("text_model.final_layer_norm", "vision_model.post_layernorm"),
            heads=("classifier",),
            modality="image-text",
        ),
        Family(
            name="gpt2",
            model_types=("gpt2",),
            stacks=(
                Stack(
                    "h",
                    attention=(Attention("attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj", transposed=True),),
                    ffn=FFN(("mlp.c_fc",), "mlp.c_proj", transposed=True),
                    norms=("ln_1", "ln_2"),
                ),
            ),
            embeddings=("wte", "wpe"),
            final_norms=("ln_f",),
            heads=("score",),
            language_heads=("lm_head",),
            causal=True,
        ),
        Family(
            name="opt",
            model_types=("opt",),
            stacks=(
                Stack(
                    "decoder.layers",
                    attention=(
                        Attention("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
                    ),
                    ffn=FFN(("fc1",), "fc2"),
                    norms=("self_attn_layer_norm", "final_layer_norm"),
                ),
            ),
            embeddings=("decoder.embed_tokens", "decoder.embed_positions", "decoder.project_in"),
            final_norms=("decoder.final_layer_norm",),
            heads=("score",),
            language_heads=("lm_head",),
            causal=True,
        ),
        _LLAMA,
        replace(
            _LLAMA,
            name="qwen3",
            model_types=("qwen3",),
            stacks=(replace(_LLAMA_STACK, norms=(*_LLAMA_STACK.norms, "self_attn.q_norm", "self_attn.k_norm")),),
        ),
    )
}


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model, by its config.

    Raises:
        RecipeError: at ``model.path`` when no family has its type; lists those known.
    """
    return family_of_type(config.model_type)


def family_of_type(model_type: str) -> Family:
    """The family of a transformers ``model_type``; raises as `family_of` does."""
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    known = ", ".join(known for family in FAMILIES.values() for known in family.model_types)
    raise RecipeError(f"models of type `{model_type}` are not supported; known: {known}", where="model.path")


def blocks(model: PreTrainedModel, family: Family) -> list[Block]:
    """The blocks of a model, first to last; a stack that this model leaves out (CLIP's text) is skipped."""
    base = dict(model.base_model.named_modules())
    return [
        Block(f"{stack.path}.{name}", module, stack)
        for stack in family.stacks
        if stack.path in base
        for name, module in base[stack.path].named_children()
    ]


def attention_targets(family: Family) -> list[str] | str:
    """Query, key, value and output projections of every block, as peft's ``target_modules``."""
    return targets(family, lambda stack: stack.attention_matrices)


def ffn_targets(family: Family) -> list[str] | str:
    """All FFN matrices of every block, as peft's ``target_modules``."""
    return targets(family, lambda stack: stack.ffn_matrices)


def all_targets(family: Family) -> list[str] | str:
    """Attention and FFN of every block, as peft's ``target_modules``."""
    return targets(family, lambda stack: stack.matrices)


def targets(family: Family, parts: Parts) -> list[str] | str:
    """Names parts of a block, in every block, the way peft selects modules.

    peft takes a list as endings of module names, which most tools around it read. Where an ending would catch another
    part too (BERT's FFN ``output.dense`` ends its ``attention.output.dense``), it is a `pattern`.
    """
    chosen = list(dict.fromkeys(path for stack in family.stacks for path in parts(stack)))
    for stack in family.stacks:
        others = set(stack.matrices) - set(parts(stack))
        if any(other == path or other.endswith(f".{path}") for other in others for path in chosen):
            return pattern(family, parts)
    return chosen


def pattern(family: Family, parts: Parts) -> str:
    """A regular expression for the whole names of parts of every block, whatever stands before the stack."""
    lists: dict[tuple[str, ...], list[str]] = {}
    for stack in family.stacks:
        lists.setdefault(tuple(parts(stack)), []).append(stack.path)
    made = [
        rf"(?:{'|'.join(map(re.escape, stacks))})\.\d+\.(?:{'|'.join(map(re.escape, paths))})"
        for paths, stacks in lists.items()
    ]
    return rf"(?:.*\.)?{made[0]}" if len(made) == 1 else rf"(?:.*\.)?(?:{'|'.join(made)})"
