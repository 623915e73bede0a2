"""Settings of glibc's malloc for free memory, for the whole process. On other systems the functions do nothing."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
_LARGE, _HUGE, _NEVER = 2**20, 2**30, 2**31 - 1


def give_back_at_once() -> None:
    """Maps each large tensor separately, so that its memory returns to the system when it is freed."""
    _set(_MMAP_THRESHOLD, _LARGE)
    _set(_TRIM_THRESHOLD, _LARGE)


def keep_for_reuse() -> None:
    """Keeps freed memory in the process, so that each training step reuses the memory of the step before.

    By default glibc returns it to the system and requests it again, and the system clears every page each time.
    """
    _set(_MMAP_THRESHOLD, _HUGE)
    _set(_TRIM_THRESHOLD, _NEVER)


def give_back_now() -> None:
    """Returns all memory that is free at this moment to the system."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _set(option: int, value: int) -> None:
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(option, value)
