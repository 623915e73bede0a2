"""Threads of torch. A sum over several threads is rounded differently, so their number decides the last bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def use_threads(number: int) -> Iterator[None]:
    """Sets the number of torch's threads in this process while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
