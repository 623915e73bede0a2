"""The log of arrivals: the order in which answers came to an asynchronous run, so that a resumed run repeats it.

Each answer is a line of events.jsonl before anything is done with it. Lines of a round that was not saved stay there:
when the round is played again, its answers are taken in the order of these lines, and only later answers add lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder

ARRIVAL = "arrival"
"""Kind of these events."""


@dataclass(frozen=True)
class Arrival:
    """An answer that came.

    Attributes:
        client: client id.
        sound: whether it was an update that the protocol got.
    """

    client: str
    sound: bool


def log_arrival(folder: RunFolder, round: int, arrival: Arrival) -> None:  # noqa: A002 - the field's word
    """Adds an arrival to the events of the run, at once."""
    reason = "a sound update" if arrival.sound else "no sound update"
    event = {"round": round, "kind": ARRIVAL, "client": arrival.client, "reason": reason, "sound": arrival.sound}
    folder.append(folder.events, event)


def arrivals_after(folder: RunFolder, round: int) -> list[Arrival]:  # noqa: A002
    """What came after a round, in order.

    Raises:
        DataError: the events of the run are damaged.
    """
    events = jsonl.records(folder.events, shapes.EVENT)
    return [
        Arrival(event["client"], bool(event["sound"]))
        for event in events
        if event["kind"] == ARRIVAL and event["round"] > round
    ]
