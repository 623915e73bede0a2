"""Folders of runs, written for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedfm.records.folder import RunFolder
from tests.run_folders import write_run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    def make(name: str = "synthetic", **options: Any) -> RunFolder:
        return write_run(tmp_path / name, **options)

    return make
