"""The answers of a site's examples are drawn once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm.errors import StorageError
from fedfm.sites.label_counts import FILE, label_answers

COUNTS = {"good": 400, "bad": 600}


def test_the_same_answers_are_given_again_and_no_others_are_drawn(tmp_path: Path) -> None:
    first = label_answers(tmp_path, COUNTS, "digest", 0.5)
    assert first is not None
    assert sum(first) == 1000
    assert all(label_answers(tmp_path, COUNTS, "digest", 0.5) == first for _ in range(5))
    assert label_answers(tmp_path, COUNTS, "other data", 0.5) is None
    assert label_answers(tmp_path, COUNTS, "digest", 5.0) is None
    assert label_answers(tmp_path, {"bad": 600, "good": 400}, "digest", 0.5) is None
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(StorageError, match="is damaged"):
        label_answers(tmp_path, COUNTS, "digest", 0.5)
