"""The smallest valid recipe, for tests to change."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def values() -> dict[str, Any]:
    """Only what has no default, and something to evaluate on."""
    return {
        "name": "test",
        "model": {"path": "builtin:tiny-bert"},
        "task": {"kind": "text-classification"},
        "data": {"train": "builtin:pydoc", "test": 0.2},
    }
