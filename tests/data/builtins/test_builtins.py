"""Every built-in data set can be read as one that a recipe names."""

from __future__ import annotations

import pytest

from fedfm.data.builtins import BUILTINS
from fedfm.data.sources import read_source


@pytest.mark.parametrize("name", BUILTINS)
def test_both_parts_are_there_and_differ(name: str) -> None:
    train, test = (read_source(f"builtin:{name}", split, where=f"data.{split}") for split in ("train", "test"))
    assert len(train) > len(test) > 0
    assert train.digest != test.digest
    assert train.table.column_names == test.table.column_names
