"""Frozen first blocks, computed once an example: where only upper blocks or the head are trained, the rest is a table.

What an example's frozen blocks compute never changes. It is computed for all examples of a client together, in an order
of its own, so that the values depend on nothing else, and kept: in memory up to a limit, then in a file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fedfm.models.families import blocks
from fedfm.models.stacked.packing import PackedBlocks, Packing, packing_of, reading
from fedfm.models.tunable import Tunable
from fedfm.params import tensor_bytes

MEMORY = 1 << 30
"""Bytes kept in memory, a process."""

DISK = 16 << 30 if hasattr(os, "pread") else 0
"""Bytes kept in a file beyond that (not on Windows); what comes after is computed each time."""


class _PrefixComputedError(Exception):
    """Ends a pass at the first block that is trained."""


@dataclass(frozen=True)
class _Filed:
    """Where a tensor lies in a file."""

    file: IO[bytes]
    start: int
    dtype: torch.dtype
    shape: torch.Size

    def read(self) -> Tensor:
        content = os.pread(self.file.fileno(), self.shape.numel() * self.dtype.itemsize, self.start)
        return torch.frombuffer(bytearray(content), dtype=self.dtype).view(self.shape)


class Shelf:
    """Tensors by number, in memory up to a limit, then in a file that vanishes with this process.

    A forked process goes on with a file of its own; what was kept before it reads where it was.
    """

    def __init__(self, memory: int = MEMORY, disk: int = DISK) -> None:
        self._memory, self._disk = memory, disk
        self._kept: dict[int, Tensor | _Filed] = {}
        self._file: IO[bytes] | None = None
        self._owner = 0
        self._end = 0

    def __contains__(self, number: int) -> bool:
        return number in self._kept

    def put(self, number: int, tensor: Tensor) -> None:
        """Keeps a tensor, unless there is no room left."""
        size = tensor.numel() * tensor.element_size()
        if size <= self._memory:
            self._memory -= size
            self._kept[number] = tensor.to("cpu", copy=True)  # what it is a slice of may go
        elif size <= self._disk:
            file = self._own_file()
            try:
                written = os.pwrite(file.fileno(), tensor_bytes(tensor), self._end)
            except OSError:
                written = 0
            if written < size:  # the disk is full
                self._disk = 0
                return
            self._disk -= size
            self._kept[number] = _Filed(file, self._end, tensor.dtype, tensor.shape)
            self._end += size

    def get(self, number: int) -> Tensor:
        """A tensor that was kept."""
        kept = self._kept[number]
        return kept if isinstance(kept, Tensor) else kept.read()

    def _own_file(self) -> IO[bytes]:
        if self._file is None or self._owner != os.getpid():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the shelf
            self._owner, self._end = os.getpid(), 0
        return self._file


class FrozenPrefix:
    """A model's blocks before the first one that is trained.

    Attributes:
        start: how many there are; all blocks where only the head is trained.
    """

    def __init__(self, blocks_: PackedBlocks, tunable: Tunable, start: int, shelf: Shelf | None = None) -> None:
        self._blocks, self._tunable = blocks_, tunable
        self._chain = [block.module for block in blocks(blocks_.model, blocks_.family)]
        self._shelf = shelf or Shelf()
        self.start = start

    @classmethod
    def of(cls, blocks_: PackedBlocks, tunable: Tunable) -> FrozenPrefix | None:
        """The frozen first blocks under a tunable; None where there are none, or the input itself is trained."""
        if not blocks_.can_be_packed:
            return None
        trained = {id(parameter) for parameter in tunable.parameters.values()}
        chain = [block.module for block in blocks(blocks_.model, blocks_.family)]
        inside = [any(id(parameter) in trained for parameter in block.parameters()) for block in chain]
        start = inside.index(True) if True in inside else len(chain)
        below = {id(p) for path in blocks_.family.embeddings for p in _parameters(blocks_.model.base_model, path)}
        virtual = getattr(tunable.model, "prompt_encoder", None) is not None
        return cls(blocks_, tunable, start) if start and not virtual and not below & trained else None

    def of_client(
        self, numbers: Sequence[int], batches: Callable[[], Iterator[dict[str, Tensor]]]
    ) -> dict[int, Tensor]:
        """What the prefix makes of a client's examples, ``[tokens, d]`` each (``[1, d]`` where only the first is read).

        Args:
            numbers: of the examples, in the order of the batches.
            batches: makes them as inputs of the model, on its device; called where something is not kept.
        """
        if all(number in self._shelf for number in numbers):
            return {number: self._shelf.get(number) for number in numbers}
        computed = [part for batch in batches() for part in self._compute(batch)]
        found = dict(zip(numbers, computed, strict=True))
        for number, part in found.items():
            if number not in self._shelf:
                self._shelf.put(number, part)
        return found

    @torch.no_grad()
    def _compute(self, batch: dict[str, Tensor]) -> list[Tensor]:
        packing = packing_of(self._tunable, batch.get("attention_mask"))
        seen: list[Tensor] = []

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(args[0] if args else kwargs["hidden_states"])
            raise _PrefixComputedError

        def note_output(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            seen.append(output)
            raise _PrefixComputedError

        with self._blocks.installed(), reading(packing):
            if self.start < len(self._chain):
                hook = self._chain[self.start].register_forward_pre_hook(note, with_kwargs=True)
            else:
                hook = self._chain[-1].register_forward_hook(note_output, prepend=True)
            try:
                with suppress(_PrefixComputedError):
                    self._blocks.model.base_model(**batch)
            finally:
                hook.remove()
        (hidden,) = seen
        examples = len(next(iter(batch.values())))
        if packing is None:
            return list(hidden.unbind())
        if hidden.shape[1] == examples:
            return list(hidden[0].unsqueeze(1).unbind())
        bounds = [*packing.first.tolist(), len(packing.places)]
        return list(torch.split(hidden[0], [end - start for start, end in pairwise(bounds)]))

    @contextmanager
    def replaced_by(self, parts: Sequence[Tensor], packing: Packing | None) -> Iterator[None]:
        """Lets installed blocks take what the prefix made of a batch's examples instead of computing it."""
        ragged = [part.to(self._blocks.model.device) for part in parts]
        hidden = pad_sequence(ragged, batch_first=True) if packing is None else torch.cat(ragged).unsqueeze(0)

        def skip(*args: Any, **kwargs: Any) -> Any:
            return args[0] if args else kwargs["hidden_states"]

        def give(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

        def give_output(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return hidden

        if self.start < len(self._chain):
            hook = self._chain[self.start].register_forward_pre_hook(give, with_kwargs=True)
        else:
            hook = self._chain[-1].register_forward_hook(give_output, prepend=True)
        for module in self._chain[: self.start]:
            module.forward = skip
        try:
            yield
        finally:
            hook.remove()
            for module in self._chain[: self.start]:
                del module.forward


def _parameters(base: nn.Module, path: str) -> Iterator[nn.Parameter]:
    names = dict(base.named_modules())
    return names[path].parameters() if path in names else iter(())
