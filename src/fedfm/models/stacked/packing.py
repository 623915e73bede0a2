"""Removes the padding of a batch inside the blocks: the tokens of all examples are in one row, except in attention.

All parts of a block except attention work on single tokens, so padding only costs time. The first block receives ``[1,
N, d]`` with the N real tokens of a batch ``[B, T]``, and the last block returns ``[B, T, d]``. Attention rearranges
queries, keys and values as ``[B, heads, T, ...]``. After the last block, padded positions are zero, and no head reads
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel, PeftType
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fedfm.models.families import Family, blocks
from fedfm.models.tunable import Tunable

_NAME = "fedfm_packed"
_packing: ContextVar[Packing | None] = ContextVar("packing", default=None)


@dataclass(frozen=True)
class LengthGroup:
    """Examples of similar length, for which attention is computed together.

    Attributes:
        rows: int64 [b], the group's examples in the batch.
        length: t, tokens of the longest example.
        tokens: int64 [n], the group's tokens among the packed tokens, ascending.
        places: int64 [n], the positions of these tokens in the group's b·t positions.
    """

    rows: Tensor
    length: int
    tokens: Tensor
    places: Tensor

    def unpack(self, x: Tensor) -> Tensor:
        """Packed heads ``[1, heads, N, e]`` → ``[b, heads, t, e]``, with zeros as padding."""
        own = x[0].transpose(0, 1).index_select(0, self.tokens)
        whole = own.new_zeros(len(self.rows) * self.length, *own.shape[1:])
        whole = whole.index_copy(0, self.places, own)
        return whole.view(len(self.rows), self.length, *own.shape[1:]).transpose(1, 2)

    def pack(self, x: Tensor) -> Tensor:
        """Padded heads ``[b, t, heads, e]`` → ``[n, heads, e]``."""
        return x.flatten(0, 1).index_select(0, self.places)


@dataclass(frozen=True)
class Packing:
    """The positions of the real tokens of a batch.

    Attributes:
        places: int64 [N], positions of the tokens in the batch's B·T positions, ascending.
        batch: B, the number of examples.
        length: T, the padded length.
        first: int64 [B], the index of each example's first token among the N tokens.
        groups: the examples, grouped by length.
        order: int64 [N], the index of each packed token in the concatenated tokens of all groups.
    """

    places: Tensor
    batch: int
    length: int
    first: Tensor
    groups: tuple[LengthGroup, ...]
    order: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        """The packing of an attention mask ``[B, T]``, which is 1 for tokens and 0 for padding on the right.

        The cost of attention grows with the square of the length, so examples are grouped by lengths up to T/4, T/2,
        3T/4 and T.
        """
        batch, length = mask.shape
        lengths = mask.sum(1)
        first = lengths.cumsum(0) - lengths
        places = mask.flatten().nonzero().squeeze(1)
        rows, columns = places // length, places % length
        groups = []
        quarter = (lengths * 4 + length - 1) // length  # 1 to 4, rounded up
        for number in range(1, 5):
            own = (quarter == number).nonzero().squeeze(1)
            if len(own):
                longest = int(lengths[own].max())
                tokens = (quarter[rows] == number).nonzero().squeeze(1)
                position = torch.zeros_like(lengths).index_copy(0, own, torch.arange(len(own), device=mask.device))
                groups.append(LengthGroup(own, longest, tokens, position[rows[tokens]] * longest + columns[tokens]))
        order = torch.cat([group.tokens for group in groups]).argsort()
        return cls(places, batch, length, first, tuple(groups), order)

    def pack(self, x: Tensor) -> Tensor:
        """``[B, T, ...]`` → ``[1, N, ...]``."""
        return x.flatten(0, 1).index_select(0, self.places).unsqueeze(0)

    def unpack(self, x: Tensor) -> Tensor:
        """``[1, N, ...]`` → ``[B, T, ...]``, with zeros as padding."""
        whole = x.new_zeros(self.batch * self.length, *x.shape[2:])
        return whole.index_copy(0, self.places, x[0]).view(self.batch, self.length, *x.shape[2:])


def packing_of(tunable: Tunable, mask: Tensor | None) -> Packing | None:
    """The packing of the tokens that the blocks read, including a prompt's virtual tokens.

    None if the batch has no padding, or if a prefix adds keys and values without queries.

    Args:
        tunable: may add virtual tokens to the text.
        mask: attention mask ``[B, T]``; None for models without one.
    """
    if mask is None or bool(mask.all()):
        return None
    if isinstance(tunable.model, PeftModel) and (config := tunable.model.active_peft_config).is_prompt_learning:
        if config.peft_type == PeftType.PREFIX_TUNING:
            return None
        mask = pad(mask, (config.num_virtual_tokens, 0), value=1)
    return Packing.of(mask)


@dataclass(frozen=True)
class PackedBlocks:
    """A model whose blocks can read packed batches, and compute in lower precision than that of their storage.

    Attributes:
        model: the transformers model, inside any adapter.
        family: describes where its blocks are.
        first_only: whether the head reads only the first token; the last block then computes only keys and values for
            the other tokens.
        dtype: of hidden states and frozen parameters inside the blocks; None: the dtype of storage.
    """

    model: PreTrainedModel
    family: Family
    first_only: bool = False
    dtype: torch.dtype | None = None
    _lower: dict[int, tuple[int, nn.Parameter]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, tunable: Tunable, family: Family, task_type: str | None) -> PackedBlocks:
        """The blocks of a tunable's model; with PEFT's task type ``SEQ_CLS``, an encoder's head reads one token."""
        return cls(tunable.base_model, family, first_only=task_type == "SEQ_CLS")

    @property
    def can_be_packed(self) -> bool:
        """Whether the blocks form a single chain, and their attention can be replaced."""
        supported = getattr(self.model, "_supports_attention_backend", False)
        replaceable = self.model.config._attn_implementation in ("sdpa", _NAME)
        chain = len(self.family.stacks) == 1 and not self.family.repeats_blocks
        return bool(chain and supported and replaceable)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Makes the blocks read batches in the packing that `reading` sets, until the end of the ``with`` block."""
        chain = [block.module for block in blocks(self.model, self.family)]
        with ExitStack() as stack:
            if self.can_be_packed:
                self.model.set_attn_implementation(_NAME)
                stack.callback(self.model.set_attn_implementation, "sdpa")
            if self.dtype is not None:
                stack.enter_context(self._lowered(chain, self.dtype))
            hooks = [block.register_forward_pre_hook(self._enter, with_kwargs=True) for block in chain]
            if self.first_only and self.family.first_token:
                part = chain[-1].get_submodule(self.family.first_token)
                hooks.append(part.register_forward_pre_hook(_keep_first))
            hooks += [block.register_forward_hook(self._leave) for block in chain[-1:]]
            for hook in hooks:
                stack.callback(hook.remove)
            yield

    @contextmanager
    def _lowered(self, chain: Sequence[nn.Module], dtype: torch.dtype) -> Iterator[None]:
        """Replaces the frozen parameters of blocks by copies in ``dtype``, cached until the parameters change."""
        own = [
            (module, name, parameter)
            for block in chain
            for module in block.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if not parameter.requires_grad
        ]
        try:
            for module, name, parameter in own:
                version, lower = self._lower.get(id(parameter), (-1, parameter))
                if version != parameter._version:
                    lower = nn.Parameter(parameter.to(dtype), requires_grad=False)
                    self._lower[id(parameter)] = parameter._version, lower
                module.register_parameter(name, lower)
            yield
        finally:
            for module, name, parameter in own:
                module.register_parameter(name, parameter)

    def _enter(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Packs the hidden states and rotary positions, and lowers their precision, unless this is already done."""
        packing = _packing.get()

        def prepared(x: Tensor) -> Tensor:
            if packing is not None and x.shape[1] == packing.length:
                x = packing.pack(x.expand(packing.batch, *x.shape[1:]))
            return x if self.dtype is None else x.to(self.dtype)

        if args:
            args = (prepared(args[0]), *args[1:])
        else:
            kwargs = kwargs | {"hidden_states": prepared(kwargs["hidden_states"])}
        if (positions := kwargs.get("position_embeddings")) is not None:
            kwargs = kwargs | {"position_embeddings": tuple(prepared(part) for part in positions)}
        return args, kwargs

    def _leave(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        packing = _packing.get()

        def restored(x: Tensor) -> Tensor:
            x = x if self.dtype is None else x.to(self.model.dtype)
            if packing is None:
                return x
            only_first = x.shape[1] == packing.batch != len(packing.places)
            return x.transpose(0, 1) if only_first else packing.unpack(x)

        return (restored(output[0]), *output[1:]) if isinstance(output, tuple) else restored(output)


@contextmanager
def reading(packing: Packing | None) -> Iterator[None]:
    """Sets the packing of the batches that installed blocks read, until the end of the ``with`` block; None: padded."""
    token = _packing.set(packing)
    try:
        yield
    finally:
        _packing.reset(token)


def _keep_first(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    packing = _packing.get()
    if packing is None:
        return tuple(x[:, :1] for x in args)
    return tuple(x.index_select(1, packing.first) for x in args)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention over a batch, padded or packed (input ``[1, heads, N, ...]``, output ``[1, N, heads, ...]``)."""
    attend: Callable[..., tuple[Tensor, Tensor | None]] = sdpa_attention_forward
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] == key.shape[2]:
        attend = plain_attention  # six times as fast as torch's fused kernel
    packing = _packing.get()
    if packing is None:
        return attend(module, query, key, value, attention_mask, **kwargs)[0], None
    parts = []
    for group in packing.groups:
        mask, t = attention_mask, group.length
        if mask is not None:
            mask = (mask if mask.shape[0] == 1 else mask.index_select(0, group.rows))[:, :, :t, :t]
        output, _ = attend(module, *(group.unpack(x) for x in (query, key, value)), mask, **kwargs)
        parts.append(group.pack(output))
    return torch.cat(parts).index_select(0, packing.order).unsqueeze(0), None


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """softmax(s·QKᵀ + mask) V for ``[B, heads, T, ...]``, as transformers' SDPA; to ``[B, T, heads, ...]``."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is None and causal:
        attention_mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask.to(scores.dtype)
    return (scores.softmax(-1) @ value).transpose(1, 2), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
