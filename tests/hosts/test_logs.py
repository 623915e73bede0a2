"""A site's log cannot be forged by what a server sends."""

from __future__ import annotations

import logging
from io import StringIO

from fedfm.hosts.logs import Formatter
from fedfm.printable import LINES
from tests.hostile import TEXT, assert_shown


def logged(*texts: str) -> str:
    out = StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(Formatter())
    log = logging.Logger("site")
    log.addHandler(handler)
    for text in texts:
        log.info("%s", text)
    return out.getvalue()


def test_each_record_is_one_entry_and_controls_nothing() -> None:
    text = logged(f"refused: {TEXT}", "connected")
    assert_shown(text)
    entries = [line for line in text.splitlines() if not line.startswith("    ")]
    assert [entry.split(" INFO ")[1][:9] for entry in entries] == ["refused: ", "connected"]


def test_a_record_has_an_end_and_a_traceback_its_last_line() -> None:
    text = logged("Traceback\n" + "  File\n" * 100_000 + "ValueError: the end")
    assert len(text) < 4 * LINES
    assert text.endswith("    ValueError: the end\n")
