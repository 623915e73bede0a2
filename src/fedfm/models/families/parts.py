"""What a family is made of: paths of stacks, of blocks' matrices and norms, of embeddings and heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from torch import nn
from transformers import PretrainedConfig


@dataclass(frozen=True)
class Attention:
    """The projections of one attention, each d → its heads, then back to d.

    Where query, key and value are one matrix, all three name it. How its outputs are shared out differs: query, key,
    value one after the other (GPT-2, Phi-3), or these three head by head (GPT-NeoX).

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
        """The module that all of it lies in; of BERT's kind, residual and norm lie in it too."""
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
        """The projections that read the hidden state, each once."""
        return (self.query,) if self.fused else (self.query, self.key, self.value)


@dataclass(frozen=True)
class FFN:
    """A feed-forward network of m neurons: every input matrix maps d → m, the output matrix m → d.

    Neuron j is row j of each input matrix and column j of the output matrix; the other way round where
    ``transposed`` (GPT-2's Conv1D stores ``[in, out]``).

    Attributes:
        inputs: one matrix, or two when gated (Llama: gate and up; T5: ``wi_0`` and ``wi_1``).
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
        ffn: its feed-forward network; None where that is made of experts.
        norms: every norm of a block.
        others: the parts of a block that are none of these: a router and its experts, scales of residuals.
        ffn_norm: the one of them that takes the sum of FFN and residual (BERT); none where norms come before.
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
        """The feed-forward network of a stack that has one.

        Raises:
            ValueError: it is made of experts; `Family.uncuttable` says so first.
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
        stack: where its parts are.
    """

    path: str
    module: nn.Module
    stack: Stack


def after_padding(config: PretrainedConfig) -> int:
    """The position of a text's first token in models that count from the padding id, and so have learnt with it."""
    return int(config.pad_token_id) + 1


@dataclass(frozen=True)
class Family:
    """One architecture, shared by all ``model_types`` whose module names agree.

    Attributes:
        stacks: the lists of blocks, in the order of the data's way; CLIP has two, text then vision.
        embeddings: modules before the first block, and what every block reads (DeBERTa's relative positions).
        final_norms: norms after the last block, where the model has one.
        heads: modules that turn features into labels; a pretrained checkpoint usually lacks them.
        language_heads: modules between the last block and the vocabulary, without the tied output matrix.
        pooler: the base model's pooler when the classification head reads it and a checkpoint may lack it.
        causal: whether position t sees only positions up to t.
        first_token: in encoders that classify by the first token, the module of a block that joins attention's output
            and the residual; from there on the last block need compute that token only.
        reads_positions: whether the projections of attention also read relative positions, which are no example's.
        repeats_blocks: whether data passes the blocks several times, as layers that share their weights (ALBERT).
        beside_blocks: modules outside the blocks whose names end as those of a block's matrices do.
        first_position: of a text's first token; RoBERTa counts from the padding id's successor. None: 0.
        when: tells its configs from those of another family with the same types; None where there is no other.
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
        """What is missing for a proxy of such a model; None: nothing."""
        if not self.is_described:
            return f"where `{self.name}` models have their blocks and FFNs is not described"
        if self.repeats_blocks:
            return f"the layers of {self.name} share their weights, so that none can be cut by itself"
        if any(stack.ffn is None for stack in self.stacks):
            return f"the FFNs of {self.name} are experts, whose neurons are not described"
        return None
