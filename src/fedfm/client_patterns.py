"""What patterns of client ids say of one client."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

T = TypeVar("T")
D = TypeVar("D")


def first_match(choices: Mapping[str, T], client: str, default: D) -> T | D:
    """The choice of the first pattern, such as `phone-*`, that a client id matches; ``default`` if none does."""
    return next((choice for pattern, choice in choices.items() if fnmatchcase(client, pattern)), default)
