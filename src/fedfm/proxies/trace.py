"""What flows through a model: hidden states after blocks, activations of neurons, the arguments of a block.

Every pass runs the base model without a head, with the adapter that is attached to its modules. Virtual tokens are
outside the base model, so a pass does not include prompts and prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any, cast

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.bart.modeling_bart import shift_tokens_right

from fedfm.models.families import Block
from fedfm.proxies.ffn import output_layer
from fedfm.tasks.base import Batch

Model = PeftModel | PreTrainedModel
"""A transformers model, or one that PEFT has attached an adapter to."""


def without_adapter(model: Model) -> AbstractContextManager[None]:
    """Passes in the block see the model as it is without its adapter."""
    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()


class _EnoughError(Exception):
    """Ends a pass early, once everything needed has been collected."""


def base_of(model: Model) -> PreTrainedModel:
    """The transformers model without its head; an adapter's modules are inside it."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast(PreTrainedModel, inner.base_model)


def run(model: Model, batch: Batch) -> None:
    """One forward pass, for the hooks on the way; the batch moves to the model's device.

    A decoder that reads an encoder's output gets the encoder's text, shifted right, as in T5's classifier.
    """
    base = base_of(model)
    inputs = {name: tensor.to(base.device) for name, tensor in batch.items()}
    if base.config.is_encoder_decoder:
        start, padding = base.config.decoder_start_token_id, base.config.pad_token_id
        inputs["decoder_input_ids"] = shift_tokens_right(inputs["input_ids"], padding, start)
    cache = {"use_cache": False} if getattr(base.config, "use_cache", False) else {}  # a block may be called twice
    with suppress(_EnoughError):
        base(**inputs, **cache)


def hidden_states(model: Model, blocks: Sequence[Block], batch: Batch) -> dict[str, Tensor]:
    """The hidden state after each block, ``[B, T, d]`` by the block's path; the pass ends with the last of them."""
    with collecting(blocks, ends=True) as states:
        run(model, batch)
    return states


@contextmanager
def collecting(blocks: Sequence[Block], *, ends: bool = False) -> Iterator[dict[str, Tensor]]:
    """Collects the hidden state after each block, ``[B, T, d]`` by the block's path, of the latest pass.

    Args:
        blocks: of the model that passes.
        ends: whether a pass by `run` ends with the last of them.
    """
    states: dict[str, Tensor] = {}

    def collect(block: Block, output: Any) -> None:
        states[block.path] = hidden_state(output)
        if ends and len(states) == len(blocks):
            raise _EnoughError

    with ExitStack() as hooks:
        for block in blocks:
            hook = block.module.register_forward_hook(lambda _, __, output, block=block: collect(block, output))
            hooks.enter_context(hook)
        yield states


def hidden_state(output: Any) -> Tensor:
    """The hidden state ``[B, T, d]`` in what a block returns."""
    return cast(Tensor, output[0] if isinstance(output, tuple) else output)


def block_arguments(model: Model, block: Block, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a pass calls a block with, positional and by name; the pass ends there."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def collect(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((positional, named))
        raise _EnoughError

    with block.module.register_forward_pre_hook(collect, with_kwargs=True):
        run(model, batch)
    return seen[0]


@contextmanager
def activations(blocks: Sequence[Block]) -> Iterator[dict[str, Tensor]]:
    """Collects the neurons' activations ``[…, m]`` by the block's path: those of the latest pass."""
    collected: dict[str, Tensor] = {}

    def collect(block: Block, arguments: tuple[Tensor, ...]) -> None:
        collected[block.path] = arguments[0]

    with ExitStack() as hooks:
        for block in blocks:
            hook = output_layer(block).register_forward_pre_hook(lambda _, args, block=block: collect(block, args))
            hooks.enter_context(hook)
        yield collected


def real_positions(values: Tensor, mask: Tensor | None) -> Tensor:
    """The vectors at positions that are not padding, ``[N, width]``.

    Args:
        values: ``[B, T, width]``, or the same flattened to ``[B·T, width]``.
        mask: ``[B, T]``, 1 = real. None: all positions are, as those of an image.

    Raises:
        ValueError: the mask has other positions than the values.
    """
    rows = values.reshape(-1, values.shape[-1])
    if mask is None:
        return rows
    if values.shape[:-1] not in (mask.shape, (mask.numel(),)):
        raise ValueError(f"a mask of shape {list(mask.shape)} does not fit the positions of {list(values.shape)}")
    return rows[mask.to(rows.device).reshape(-1).bool()]
