"""Blocks that read a padded batch without its padding: tokens of all examples in one row, attention apart.

Everything in a block but attention is done token by token, so padding only costs time. The first block is handed
``[1, N, d]`` with the N real tokens of a batch ``[B, T]``, the last one hands on ``[B, T, d]`` again; attention lays
queries, keys and values out as ``[B, heads, T, ...]`` for itself. What is at padded positions after the last block is
zero, and no head reads it.
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
    """Examples of like length, which attention takes together.

    Attributes:
        rows: int64 [b], which examples of the batch.
        length: tokens of the longest, t.
        tokens: int64 [n], which of the packed tokens are theirs, ascending.
        places: int64 [n], where these lie in the group's b·t.
    """

    rows: Tensor
    length: int
    tokens: Tensor
    places: Tensor

    def unpack(self, x: Tensor) -> Tensor:
        """Packed heads ``[1, heads, N, e]`` → ``[b, heads, t, e]``, zero where there is padding."""
        own = x[0].transpose(0, 1).index_select(0, self.tokens)
        whole = own.new_zeros(len(self.rows) * self.length, *own.shape[1:])
        whole = whole.index_copy(0, self.places, own)
        return whole.view(len(self.rows), self.length, *own.shape[1:]).transpose(1, 2)

    def pack(self, x: Tensor) -> Tensor:
        """Padded heads ``[b, t, heads, e]`` → ``[n, heads, e]``."""
        return x.flatten(0, 1).index_select(0, self.places)


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of a batch are.

    Attributes:
        places: int64 [N], positions of the tokens in the batch's B·T, ascending.
        batch: B.
        length: T.
        first: int64 [B], where among the N each example begins.
        groups: the examples by their length.
        order: int64 [N], where each packed token is among those of all groups, one group after the other.
    """

    places: Tensor
    batch: int
    length: int
    first: Tensor
    groups: tuple[LengthGroup, ...]
    order: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        """The packing of an attention mask ``[B, T]``, 1 where there is a token, on the left of the padding.

        Attention costs the square of the length, so that examples are grouped by lengths up to T/4, T/2, 3T/4 and T.
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
        """``[1, N, ...]`` → ``[B, T, ...]``, zero where there was padding."""
        whole = x.new_zeros(self.batch * self.length, *x.shape[2:])
        return whole.index_copy(0, self.places, x[0]).view(self.batch, self.length, *x.shape[2:])


def packing_of(tunable: Tunable, mask: Tensor | None) -> Packing | None:
    """Where the real tokens of a batch are that blocks will see, a prompt's virtual ones among them.

    None where all are real, or where a prefix lies in keys and values, of which there are more than queries.

    Args:
        tunable: decides what the blocks see besides the text.
        mask: attention mask ``[B, T]``; None for models that have none.
    """
    if mask is None or bool(mask.all()):
        return None
    if isinstance(tunable.model, PeftModel) and (config := tunable.model.active_peft_config).is_prompt_learning:
        if config.peft_type != PeftType.PROMPT_TUNING:
            return None
        mask = pad(mask, (config.num_virtual_tokens, 0), value=1)
    return Packing.of(mask)


@dataclass(frozen=True)
class PackedBlocks:
    """A model whose blocks can read packed batches, and compute in lower precision than they are stored in.

    Attributes:
        model: the transformers model, inside any adapter.
        family: where its blocks are.
        first_only: whether the head reads only the first token, so that the last block need compute no other beyond
            its keys and values.
        dtype: of hidden states and frozen parameters inside the blocks; None: as they are stored.
    """

    model: PreTrainedModel
    family: Family
    first_only: bool = False
    dtype: torch.dtype | None = None
    _lower: dict[int, tuple[int, nn.Parameter]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, tunable: Tunable, family: Family, task_type: str | None) -> PackedBlocks:
        """The blocks of a tunable's model; of PEFT's task types, ``SEQ_CLS`` reads only an encoder's first token."""
        return cls(tunable.base_model, family, first_only=task_type == "SEQ_CLS")

    @property
    def can_be_packed(self) -> bool:
        """Whether the blocks are one chain, and their attention can be replaced."""
        supported = getattr(self.model, "_supports_attention_backend", False)
        replaceable = self.model.config._attn_implementation in ("sdpa", _NAME)
        chain = len(self.family.stacks) == 1 and not self.family.repeats_blocks
        return bool(chain and supported and replaceable)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Makes the blocks read what `reading` says, for a block of statements."""
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
        """Exchanges the frozen parameters of blocks for copies in ``dtype``, which are kept until they change."""
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
        """Packs and lowers the hidden states where they are not yet, and the rotary positions that come with them."""
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
    """Lets installed blocks read batches packed so for a block of statements; None: as they come."""
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
    """Attention over the examples of a batch, packed (``[1, heads, N, ...]`` in, ``[1, N, heads, ...]`` out) or not."""
    attend: Callable[..., tuple[Tensor, Tensor | None]] = sdpa_attention_forward
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] == key.shape[2]:
        attend = plain_attention  # torch's fused kernel takes six times as long
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
