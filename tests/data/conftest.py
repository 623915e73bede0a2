"""Sources in memory. Imports wait until the environment is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from datasets import Features

    from fedfm.data.sources import Source


@pytest.fixture
def make_source() -> Callable[..., Source]:
    """A source in memory: ``make_source(text=[…], label=[…])``."""
    from datasets import Dataset

    from fedfm.data.sources import Source

    def make(features: Features | None = None, **columns: list[object]) -> Source:
        return Source(Dataset.from_dict(columns, features=features), digest=repr(columns), name="made.jsonl")

    return make
