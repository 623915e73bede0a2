"""Which part of a built-in set an example belongs to: fixed by what it says, not by where it stands."""

from __future__ import annotations

import hashlib


def is_test(content: str) -> bool:
    """True for one fifth of all strings, by their sha256."""
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >= 0.8 * 2**64
