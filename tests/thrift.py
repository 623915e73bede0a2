"""What whole runs in the tests need not do again and again.

Drawing the charts of a report takes longer than training in most of these runs. A test that looks at charts has the
marker ``charts`` and gets them whole; in all others each is an empty picture, and a function that draws is called once
in a process. A random model is the same bytes each time, so it is made once and then copied.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

EMPTY = '<svg width="1pt" height="1pt" viewBox="0 0 1 1" xmlns="http://www.w3.org/2000/svg"></svg>'


class Thrift:
    """Replaces `Figure.savefig` and `write_random_model` once their modules are there; it imports neither."""

    def __init__(self) -> None:
        self.whole = True
        self.drawn: set[Any] = set()
        self.scratch = tempfile.TemporaryDirectory(prefix="fedfm-models-")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.whole = item.get_closest_marker("charts") is not None
        self._replace("matplotlib.figure", "Figure.savefig", self._savefig)
        self._replace("fedfm.report.svg", "figure", self._figure)
        self._replace("fedfm.models.builtin", "write_random_model", self._write_random_model)

    def _replace(self, module: str, name: str, made: Callable[[Any], Any]) -> None:
        owner, (*inside, last) = sys.modules.get(module), name.split(".")
        for part in inside:
            owner = getattr(owner, part, None)
        present = getattr(owner, last, None)
        if present is not None and not hasattr(present, "of_tests"):
            replacing = made(present)
            replacing.of_tests = True
            setattr(owner, last, replacing)

    def _figure(self, drawn: Any) -> Any:
        def figure(draw: Callable[[Any], None], **size: float) -> Any:
            function = getattr(draw, "func", draw)  # of a `partial`
            known = getattr(function, "__code__", function)
            if not self.whole and known in self.drawn:
                return drawn.__globals__["Figure"]()
            self.drawn.add(known)
            return drawn(draw, **size)

        return figure

    def _savefig(self, written: Any) -> Any:
        def savefig(figure: Any, target: Any, **options: Any) -> None:
            if self.whole or not isinstance(target, io.StringIO):
                written(figure, target, **options)
            else:
                target.write(EMPTY)

        return savefig

    def _write_random_model(self, write: Any) -> Any:
        @cache
        def made(name: str) -> Path:
            folder = Path(tempfile.mkdtemp(dir=self.scratch.name))
            write(name, folder)
            return folder

        def copied(name: str, folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            for path in made(name).iterdir():
                shutil.copy(path, folder)

        return copied
