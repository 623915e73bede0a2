"""How to install the optional parts of fedfm."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """The command that installs an extra of pyproject.toml."""
    return f"in fedfm's checkout: make install EXTRAS={extra}"
