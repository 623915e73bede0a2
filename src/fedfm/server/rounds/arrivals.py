"""The order in which answers of an asynchronous run with real sites arrived; a resumed run folds in that order again.

Each arrival is a line of events.jsonl, written before the answer is folded, with the round in which it was folded. The
lines of rounds after the last checkpoint are kept when a run is resumed, however often it is interrupted.
"""

from __future__ import annotations

from typing import Any

from fedfm.records import jsonl
from fedfm.records.folder import RunFolder

ARRIVAL = "arrival"
"""Kind of the event."""


def arrivals(folder: RunFolder, after: int) -> list[dict[str, Any]]:
    """The arrivals of rounds after one, in order."""
    return [
        dict(event) for event in jsonl.records(folder.events) if event["kind"] == ARRIVAL and event["round"] > after
    ]


def restore_arrivals(folder: RunFolder, found: list[dict[str, Any]], after: int) -> None:
    """Writes those of ``found`` again that were cut off with a round that was not completed."""
    for event in found[len(arrivals(folder, after)) :]:
        folder.append(folder.events, event)
