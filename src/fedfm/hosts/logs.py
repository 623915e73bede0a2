"""The log of a node."""

from __future__ import annotations

import logging

from fedfm.printable import lines


class Formatter(logging.Formatter):
    """One entry for each record: no line of a record's text can be read as another entry."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`, made safe to show; lines after the first are indented."""
        return lines(super().format(record)).replace("\n", "\n    ")


def log_to_stderr() -> None:
    """Writes the records of this process to standard error, as `Formatter` formats them."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
