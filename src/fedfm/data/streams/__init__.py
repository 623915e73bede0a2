"""How the clients' data changes over a run, one kind of stream a file. To add one, write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.data.streams.base import Stream, StreamTasks
from fedfm.data.streams.column import ColumnStream
from fedfm.data.streams.labels import LabelStream
from fedfm.data.streams.replay import Replay
from fedfm.data.streams.timetable import Timetable
from fedfm.registry import Choice

STREAMS: dict[str, type[Stream]] = {
    "labels": LabelStream,
    "column": ColumnStream,
}

AnyStream = Annotated[Stream, Choice(STREAMS, "kind", "fedfm.streams")]

__all__ = [
    "STREAMS",
    "AnyStream",
    "ColumnStream",
    "LabelStream",
    "Replay",
    "Stream",
    "StreamTasks",
    "Timetable",
]
