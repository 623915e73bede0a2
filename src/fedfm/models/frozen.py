"""What of a model must not change in training: everything but its tunable. Sums of bytes show whether it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.errors import FedfmError
from fedfm.models.tunable import Tunable
from fedfm.params import Params

WORD = 8
"""Bytes that are added up at once."""

SHOWN = 3
"""Names in a message."""


class FrozenChangedError(FedfmError):
    """Training changed weights that are frozen."""


def frozen(tunable: Tunable) -> Params:
    """The parameters and stored buffers of a model that are not trained, by name; no copies."""
    trained = {id(parameter) for parameter in tunable.parameters.values()}
    state: Mapping[str, Tensor] = tunable.model.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in state.items() if id(tensor) not in trained}


def checksum(tensor: Tensor) -> int:
    """The sum of a tensor's bytes as 64-bit words, modulo 2^64; it takes about as long as reading it.

    It shows every change of a single value, and other changes unless the words happen to add up to the same sum.
    """
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    whole = flat.numel() // WORD * WORD
    words = flat[:whole]
    if words.storage_offset() % WORD:
        words = words.clone()
    return int(words.view(torch.int64).sum().item()) + int(flat[whole:].sum(dtype=torch.int64).item())


def checksums(tunable: Tunable) -> dict[str, int]:
    """Name → checksum of each frozen tensor."""
    return {name: checksum(tensor) for name, tensor in frozen(tunable).items()}


def changes(before: Mapping[str, int], tunable: Tunable) -> list[str]:
    """The frozen tensors that are not as they were, or were not there."""
    now = checksums(tunable)
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def named(names: list[str]) -> str:
    """The first of many names, for messages."""
    rest = len(names) - SHOWN
    return ", ".join(f"`{name}`" for name in names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


@dataclass
class FrozenWatch:
    """Compares the frozen weights before and after the first pass of a process that trains.

    Attributes:
        is_done: whether a pass was compared.
        fault: what it found; None: nothing.
    """

    is_done: bool = False
    fault: str | None = None

    @contextmanager
    def over(self, tunable: Tunable) -> Iterator[None]:
        """Around a pass; only the first one that ends without an error costs anything.

        Raises:
            FrozenChangedError: this pass, or an earlier one, changed frozen weights.
        """
        if self.is_done:
            self._refuse()
            yield
            return
        before = checksums(tunable)
        yield
        self.is_done = True
        if names := changes(before, tunable):
            self.fault = (
                f"local training changed {len(names)} frozen tensors, which `tune` does not train: {named(names)}"
            )
        self._refuse()

    def _refuse(self) -> None:
        if self.fault is not None:
            raise FrozenChangedError(self.fault)
