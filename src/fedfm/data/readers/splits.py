"""Names of splits in files and folders."""

from __future__ import annotations

from collections.abc import Collection

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Split → its usual names, the most common first."""


def split_of(name: str) -> str | None:
    """The split that a name stands for."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def split_among(names: Collection[str], split: str) -> str | None:
    """The name among ``names`` that stands for a split, or None."""
    return next((name for known in SPLITS[split] for name in names if name.lower() == known), None)
