"""The language reference as documents."""

from __future__ import annotations

import sys

import pytest

from fedfm.data.sources import read_source
from fedfm.errors import DataError


def test_every_topic_is_one_document_in_one_part() -> None:
    from pydoc_data.topics import topics

    found: dict[str, str] = {}
    for split in ("train", "test"):
        table = read_source("builtin:pydoc-topics", split, where="public.data").table
        assert table.column_names == ["text", "client"]
        assert not found.keys() & set(table["client"])
        found.update(zip(table["client"], table["text"], strict=True))
        assert len(table) >= 10
    assert found == topics


def test_a_python_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="needs `pydoc_data`"):
        read_source("builtin:pydoc-topics", "train", where="public.data")
