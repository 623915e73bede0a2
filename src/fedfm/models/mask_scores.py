"""The names of a mask's scores, by which stages and algorithms know them."""

from __future__ import annotations

SCORES = "mask_scores"
"""Name of a matrix's scores in its module."""


def are_scores(name: str) -> bool:
    """Whether a tensor of a tunable holds the scores of a mask."""
    return name.endswith(f".{SCORES}")
