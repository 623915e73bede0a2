"""A pass through a model that stops before each of some blocks, so that a block can be changed before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.models.families import Block
from fedfm.proxies.ffn import output_layer
from fedfm.proxies.trace import Model, block_arguments, hidden_state, real_positions
from fedfm.tasks.base import Batch


@dataclass(frozen=True)
class Flow:
    """What flows through one block.

    Attributes:
        activations: of the FFN's neurons, ``[…, m]``.
        output: of the FFN, ``[…, d]``.
        total: the sum of residual and output, ``[B, T, d]``: what the norm after the FFN reads, where there is one,
            else the hidden state after the block.
        mask: of the batch, ``[B, T]``, 1 = real; None: all positions are.
    """

    activations: Tensor
    output: Tensor
    total: Tensor
    mask: Tensor | None

    def real(self) -> tuple[Tensor, Tensor, Tensor]:
        """Activations, output and total at real positions, ``[n, m]``, ``[n, d]``, ``[n, d]``."""
        return (
            real_positions(self.activations, self.mask),
            real_positions(self.output, self.mask),
            real_positions(self.total, self.mask),
        )


@dataclass(frozen=True)
class Call:
    """What a pass over one batch calls a block with.

    Attributes:
        block: the block.
        positional: arguments by position.
        named: arguments by name.
        mask: of the batch, ``[B, T]``, 1 = real; None: all positions are.
        outputs: where to keep what the block returns, by its stack's path; None: it may change, so it runs again.
    """

    block: Block
    positional: tuple[Any, ...]
    named: dict[str, Any]
    mask: Tensor | None
    outputs: dict[str, Any] | None = None

    def adds_output(self) -> bool:
        """Whether the block adds the FFN's output to its total as it is: no norm or scale changes it on the way."""
        before, shift = self.run().total, 1.0
        with output_layer(self.block).register_forward_hook(lambda _, __, output: output + shift):
            after = self.run().total
        return torch.allclose(after, before + shift, rtol=1e-3, atol=1e-2)

    def run(self, block: Block | None = None) -> Flow:
        """Runs the block, or another in its place, with these arguments."""
        block = block or self.block
        seen: dict[str, Tensor] = {}

        def collect(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen["activations"], seen["output"] = inputs[0], output

        with ExitStack() as hooks:
            hooks.enter_context(output_layer(block).register_forward_hook(collect))
            if norm := block.stack.ffn_norm:
                read = block.module.get_submodule(norm)
                hooks.enter_context(read.register_forward_pre_hook(lambda _, inputs: seen.update(total=inputs[0])))
            returned = block.module(*self.positional, **self.named)
        if self.outputs is not None and block is self.block:
            self.outputs[block.stack.path] = returned
        state = hidden_state(returned)
        return Flow(**{"total": state, **seen}, mask=self.mask)


class LayerwisePass:
    """A pass over some batches that goes from block to block; no block runs more often than once a batch.

    What a model does from one block to the next, with its masks and positions, is left to the model: blocks that have
    run already return what they returned then. Only the last output of each stack is kept, ``[B, T, d]`` a batch.
    """

    def __init__(
        self, model: Model, blocks: Sequence[Block], batches: Sequence[Batch], *, changes: bool = True
    ) -> None:
        """Starts before the first block.

        Args:
            model: in evaluation mode; a tunable may be attached.
            blocks: all blocks of the model, in the order of a pass.
            batches: public data.
            changes: whether a block may be changed after `Call.run`; if not, what it returned then is kept, and each
                call of a block that `calls` names must be run, once.
        """
        self._model, self._blocks, self._batches, self._changes = model, list(blocks), batches, changes
        self._done = 0
        self._outputs: list[dict[str, Any]] = [{} for _ in batches]

    def calls(self, path: str) -> Iterator[Call]:
        """How each batch reaches a block; blocks before it run as they are now, unless they have run already.

        Args:
            path: of a block that no earlier call was past.
        """
        place = next(number for number, block in enumerate(self._blocks) if block.path == path)
        if place < self._done:
            raise ValueError(f"the pass is behind {path} already")
        block, between = self._blocks[place], self._blocks[self._done : place]
        for batch, outputs in zip(self._batches, self._outputs, strict=True):
            with self._skipped(outputs), _kept(between, outputs):
                positional, named = block_arguments(self._model, block, batch)
            yield Call(block, positional, named, batch.get("attention_mask"), None if self._changes else outputs)
        self._done = place if self._changes else place + 1

    @contextmanager
    def _skipped(self, outputs: dict[str, Any]) -> Iterator[None]:
        """Lets blocks that have run return the last output of their stack."""
        with ExitStack() as stack:
            for block in self._blocks[: self._done]:
                stack.enter_context(_returning(block.module, outputs[block.stack.path]))
            yield


@contextmanager
def _returning(module: nn.Module, output: object) -> Iterator[None]:
    """Replaces the forward pass of a module by its result."""
    own = module.__dict__.get("forward")
    module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextmanager
def _kept(blocks: Sequence[Block], outputs: dict[str, Any]) -> Iterator[None]:
    """Keeps what blocks return, the last of each stack."""
    with ExitStack() as stack:
        for block in blocks:
            path = block.stack.path
            hook = block.module.register_forward_hook(lambda _, __, output, path=path: outputs.update({path: output}))
            stack.enter_context(hook)
        yield
