"""A cache for each test, and sources in memory. Imports wait until the environment is set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from datasets import Features

    from fedfm.data.sources import Source


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that only this test uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDFM_CACHE", str(folder))
    return folder


@pytest.fixture
def make_source() -> Callable[..., Source]:
    """A source in memory: ``make_source(text=[…], label=[…])``."""
    from datasets import Dataset

    from fedfm.data.sources import Source

    def make(features: Features | None = None, **columns: list[object]) -> Source:
        return Source(Dataset.from_dict(columns, features=features), digest=repr(columns), name="made.jsonl")

    return make
