"""How far a long piece of work is, told by where it happens to whoever listens: nothing, unless somebody does.

Where the work is done knows nothing of terminals; `heard_by` is set once, around a whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Heard = Callable[[str, int, int | None], None]
"""Called with a stage in words, how many of its steps are done, and how many there are (None: not known)."""

_heard: ContextVar[Heard | None] = ContextVar("heard", default=None)
_stage: ContextVar[str] = ContextVar("stage", default="")


@contextmanager
def heard_by(listener: Heard) -> Iterator[None]:
    """Tells the listener of every step inside the block."""
    token = _heard.set(listener)
    try:
        yield
    finally:
        _heard.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Says that a stage begins, and names it for the steps inside the block."""
    token = _stage.set(name)
    try:
        if (heard := _heard.get()) is not None:
            heard(name, 0, None)
        yield
    finally:
        _stage.reset(token)


def steps(items: Iterable[T], name: str, total: int | None = None) -> Iterator[T]:
    """The items, each told when it is done.

    Args:
        items: what is worked on.
        name: what the work is, where no `stage` around it says so.
        total: how many items there are; None takes their length, where they have one.
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
