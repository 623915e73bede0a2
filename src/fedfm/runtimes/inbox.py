"""What a node has had of late, so that it can say so when it is asked."""

from __future__ import annotations

from collections import deque

from fedfm.runtimes.parcels import Ask, Parcel, Seen

KEPT = 64
"""Messages that a node remembers by name: a question is for the last that it was sent."""


class Inbox:
    """The names of the messages that a node has had since it started."""

    def __init__(self) -> None:
        self._had = deque[str](maxlen=KEPT)

    def take(self, message: str, parcel: Parcel) -> Parcel | None:
        """Notes a message; where it is a question for another, the answer, and None where it is for the node to do.

        Args:
            message: its name.
            parcel: that it brought.
        """
        if isinstance(parcel.head, Ask):
            return Parcel(Seen(seen=parcel.head.message in self._had))
        self._had.append(message)
        return None
