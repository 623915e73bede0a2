"""The description of a family: paths of stacks, of blocks' matrices and norms, of embeddings and heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from torch import nn
from transformers import PretrainedConfig


@dataclass(frozen=True)
class Attention:
    """The projections of one attention module: from d to the heads, and back to d.

    If query, key and value are one matrix, all three paths name it. The order of its outputs differs: query, key, value
    one after the other (GPT-2, Phi-3), or the three of each head together (GPT-NeoX).

    Attributes:
        transposed: weights are stored ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]``.
    """

    query: str
    key: str
    value: str
    output: str
    transposed: bool = False

    @property
    def path(self) -> str:
        """The module that contains all projections; in models like BERT it also contains the residual and the norm."""
        ours, theirs = self.query.split("."), self.output.split(".")
        return ".".join(
            part for part, other in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
        )

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one matrix."""
        return self.query == self.key

    @property
    def inputs(self) -> tuple[str, ...]:
        """The distinct projections that read the hidden state."""
        return (self.query,) if self.fused else (self.query, self.key, self.value)


@dataclass(frozen=True)
class FFN:
    """A feed-forward network of m neurons: every input matrix maps d → m, the output matrix m → d.

    Neuron j is row j of each input matrix and column j of the output matrix; with ``transposed``, it is the reverse
    (GPT-2's Conv1D stores ``[in, out]``).

    Attributes:
        inputs: one matrix, or two for a gated network (Llama: gate and up; T5: ``wi_0`` and ``wi_1``).
        fused: gate and up are one matrix of 2m rows, gate first (Phi-3): neuron j is rows j and m + j.
    """

    inputs: tuple[str, ...]
    output: str
    transposed: bool = False
    fused: bool = False


@dataclass(frozen=True)
class Stack:
    """One list of blocks with the same structure.

    Attributes:
        path: of the list, from the base model.
        attention: self-attention, then cross-attention if the blocks have it.
        ffn: the feed-forward network; None if it is made of experts.
        norms: all norms of a block.
        ffn_norm: the norm that reads the sum of FFN and residual (BERT); None if norms come before the parts.
        others: all other parts of a block: a router and its experts, scales of residuals.
    """

    path: str
    attention: tuple[Attention, ...]
    ffn: FFN | None
    norms: tuple[str, ...]
    ffn_norm: str | None = None
    others: tuple[str, ...] = ()

    @property
    def attention_matrices(self) -> tuple[str, ...]:
        """Query, key, value and output projections."""
        return tuple(path for attention in self.attention for path in (*attention.inputs, attention.output))

    @property
    def ffn_matrices(self) -> tuple[str, ...]:
        """Input matrices, then the output matrix."""
        return (*self.ffn.inputs, self.ffn.output) if self.ffn else ()

    @property
    def dense_ffn(self) -> FFN:
        """The feed-forward network, if it is not made of experts.

        Raises:
            ValueError: it is made of experts; callers check `Family.uncuttable` first.
        """
        if self.ffn is None:
            raise ValueError(f"{self.path} has no dense feed-forward network")
        return self.ffn

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
        stack: describes its parts.
    """

    path: str
    module: nn.Module
    stack: Stack


def after_padding(config: PretrainedConfig) -> int:
    """The position of a text's first token in models that count positions from the padding id."""
    return int(config.pad_token_id) + 1


@dataclass(frozen=True)
class Family:
    """One architecture, shared by all ``model_types`` with the same module names.

    Attributes:
        stacks: the lists of blocks, in the order of computation; CLIP has two, text then vision.
        embeddings: modules before the first block, and modules that every block reads (DeBERTa's relative positions).
        final_norms: norms after the last block, if the model has any.
        heads: modules that turn features into labels; a pretrained checkpoint usually lacks them.
        language_heads: modules between the last block and the vocabulary, without the tied output matrix.
        pooler: the base model's pooler, if the classification head reads it and a checkpoint may lack it.
        causal: whether position t reads only positions up to t.
        first_token: in encoders that classify by the first token, the module of a block that adds attention's output
            and the residual; from this module on, the last block needs to compute only that token.
        reads_positions: whether the projections of attention also read relative positions, shared by all examples.
        repeats_blocks: whether data passes the blocks several times, as in layers that share their weights (ALBERT).
        beside_blocks: modules outside the blocks whose names have the same ending as matrices of a block.
        first_position: position of a text's first token; RoBERTa starts at the padding id plus one. None: 0.
        when: tells its configs from those of another family with the same types; None if no other family has them.
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
    first_token: str | None = None
    reads_positions: bool = False
    repeats_blocks: bool = False
    beside_blocks: tuple[str, ...] = ()
    first_position: Callable[[PretrainedConfig], int] | None = None
    when: Callable[[PretrainedConfig], bool] | None = None
    modality: Literal["text", "image", "image-text"] = "text"

    @property
    def is_described(self) -> bool:
        """Whether the parts of its blocks are known; otherwise only its type is."""
        return bool(self.stacks)

    @property
    def uncuttable(self) -> str | None:
        """Why such a model cannot have a proxy; None if it can."""
        if not self.is_described:
            return f"fedfm has no description of the blocks and FFNs of `{self.name}` models"
        if self.repeats_blocks:
            return f"the layers of {self.name} share their weights, so a single layer cannot be cut"
        if any(stack.ffn is None for stack in self.stacks):
            return f"the FFNs of {self.name} are experts, whose neurons are not described"
        return None
