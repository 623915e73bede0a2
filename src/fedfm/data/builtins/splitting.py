"""Splits built-in data sets by the content of each example, not by its position."""

from __future__ import annotations

import hashlib


def is_test(content: str) -> bool:
    """Whether a string is in the test set: true for one fifth of all strings, by their sha256."""
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >= 0.8 * 2**64
