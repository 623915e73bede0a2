"""Lines are counted only while that finds new ones: before Python 3.12, counting makes a run take 1.7 times as long.

What is not counted can only make the figure of coverage smaller. A test is not counted if an earlier case of the same
function ran no line that was new, or if that many tests of its module in a row did not.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import coverage
import pytest

PATIENCE = 15
"""Tests of a module in a row that run no new line, after which the rest of it is not counted."""


class Tracing:
    """Takes the trace function away during such tests."""

    def __init__(self) -> None:
        self.spent: set[tuple[Path, str]] = set()
        self.barren: Counter[Path] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        counting = coverage.Coverage.current()
        here, elsewhere = sys.gettrace(), threading.gettrace()
        if counting is None or here is None:
            return (yield)
        function = (item.path, getattr(item, "originalname", item.name))
        if function in self.spent or self.barren[item.path] >= PATIENCE:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            try:
                return (yield)
            finally:
                sys.settrace(here)
                threading.settrace(elsewhere)  # type: ignore[arg-type]
        before = _lines(counting)
        outcome = yield
        if _lines(counting) > before:
            self.barren[item.path] = 0
        else:
            self.spent.add(function)
            self.barren[item.path] += 1
        return outcome


def _lines(counting: coverage.Coverage) -> int:
    """How many lines have been run so far."""
    collector: Any = counting._collector
    return sum(map(len, collector.data.values()))
