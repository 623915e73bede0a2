"""Optional parts of fedfm, and how to install them."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """What to type where an extra of pyproject.toml is missing."""
    return f"in fedfm's checkout: make install EXTRAS={extra}"
