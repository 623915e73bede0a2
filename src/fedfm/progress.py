"""Reports the progress of long work to a listener, if one is set.

The code that does the work does not depend on a terminal. `heard_by` sets the listener once, around a whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Heard = Callable[[str, int, int | None], None]
"""Called with the name of a stage, the number of its steps that are done, and their total number (None: unknown)."""

_heard: ContextVar[Heard | None] = ContextVar("heard", default=None)
_stage: ContextVar[str] = ContextVar("stage", default="")


@contextmanager
def heard_by(listener: Heard) -> Iterator[None]:
    """Reports every step inside the block to the listener."""
    token = _heard.set(listener)
    try:
        yield
    finally:
        _heard.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Reports the start of a stage, and names it for the steps inside the block."""
    token = _stage.set(name)
    try:
        if (heard := _heard.get()) is not None:
            heard(name, 0, None)
        yield
    finally:
        _stage.reset(token)


def steps(items: Iterable[T], name: str, total: int | None = None) -> Iterator[T]:
    """Yields the items, and reports each one when it is done.

    Args:
        items: the items of the work.
        name: of the work, if it is not inside a `stage`.
        total: the number of items; None: their length, if they have one.
    """
    heard = _heard.get()
    if heard is None:
        yield from items
        return
    name = _stage.get() or name
    if total is None and isinstance(items, Sized):
        total = len(items)
    for done, item in enumerate(items):
        heard(name, done, total)
        yield item
