"""What glibc's malloc does with memory that is free: a process chooses once. Elsewhere nothing changes."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
_LARGE, _HUGE, _NEVER = 2**20, 2**30, 2**31 - 1


def give_back_at_once() -> None:
    """Maps every large tensor of its own: what is free is the system's again."""
    _set(_MMAP_THRESHOLD, _LARGE)
    _set(_TRIM_THRESHOLD, _LARGE)


def keep_for_reuse() -> None:
    """Keeps what was once taken: a step's tensors then lie where the last step's were.

    By itself glibc gives them back and takes them anew, and the system clears every page before it hands it out.
    """
    _set(_MMAP_THRESHOLD, _HUGE)
    _set(_TRIM_THRESHOLD, _NEVER)


def give_back_now() -> None:
    """Gives back what is free at this moment, wherever it lies."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _set(option: int, value: int) -> None:
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(option, value)
