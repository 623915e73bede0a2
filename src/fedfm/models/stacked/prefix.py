"""Caches the output of the frozen first blocks, if only later blocks or the head are trained.

The output of the frozen blocks for an example never changes. It is computed for all examples of a client together, in a
fixed order, so that the values do not depend on the batches of training. It is stored in memory up to a limit, then in
a file.
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
"""Maximum number of bytes in memory, per process."""

DISK = 16 << 30 if hasattr(os, "pread") else 0
"""Maximum number of further bytes in a file (not on Windows); values beyond both limits are computed each time."""


class _PrefixComputedError(Exception):
    """Ends a forward pass before the first trained block."""


@dataclass(frozen=True)
class _Filed:
    """The location of a tensor in a file."""

    file: IO[bytes]
    start: int
    dtype: torch.dtype
    shape: torch.Size

    def read(self) -> Tensor:
        content = os.pread(self.file.fileno(), self.shape.numel() * self.dtype.itemsize, self.start)
        return torch.frombuffer(bytearray(content), dtype=self.dtype).view(self.shape)


class Shelf:
    """Stores tensors by number: in memory up to a limit, then in a temporary file of this process.

    A forked process writes to its own file, and reads tensors that were stored before the fork from the earlier file.
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
        """Stores a tensor, unless both limits are reached."""
        size = tensor.numel() * tensor.element_size()
        if size <= self._memory:
            self._memory -= size
            self._kept[number] = tensor.to(
                "cpu", copy=True
            )  # a copy, so that the memory of the whole batch can be freed
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
        """A stored tensor."""
        kept = self._kept[number]
        return kept if isinstance(kept, Tensor) else kept.read()

    def _own_file(self) -> IO[bytes]:
        if self._file is None or self._owner != os.getpid():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the shelf
            self._owner, self._end = os.getpid(), 0
        return self._file


class FrozenPrefix:
    """A model's blocks before the first trained block.

    Attributes:
        start: the number of these blocks; all blocks if only the head is trained.
    """

    def __init__(self, blocks_: PackedBlocks, tunable: Tunable, start: int, shelf: Shelf | None = None) -> None:
        self._blocks, self._tunable = blocks_, tunable
        self._chain = [block.module for block in blocks(blocks_.model, blocks_.family)]
        self._shelf = shelf or Shelf()
        self.start = start

    @classmethod
    def of(cls, blocks_: PackedBlocks, tunable: Tunable) -> FrozenPrefix | None:
        """The frozen first blocks under a tunable; None if the first block or the input itself is trained."""
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
        """The prefix's output for a client's examples, ``[tokens, d]`` each (``[1, d]`` if only the first is read).

        Args:
            numbers: of the examples, in the order of the batches.
            batches: returns the examples as inputs of the model, on its device; called if an output is not stored.
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
        cache = {"use_cache": False} if getattr(self._blocks.model.config, "use_cache", False) else {}
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
                    self._blocks.model.base_model(**batch, **cache)
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
        """Makes installed blocks use the stored outputs of the prefix for a batch's examples."""
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
