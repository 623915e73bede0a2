"""The log of a site."""

from __future__ import annotations

import logging

from fedfm.printable import lines


class Formatter(logging.Formatter):
    """One entry a record: whatever a text says, none of its lines can be taken for another entry."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`, made safe to show; lines after the first are indented."""
        return lines(super().format(record)).replace("\n", "\n    ")
