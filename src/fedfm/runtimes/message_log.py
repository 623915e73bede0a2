"""The last messages that a node has received, so that it can tell when it is asked."""

from __future__ import annotations

from collections import deque

from fedfm.runtimes.envelopes import Envelope, Inquiry, Seen

KEPT = 64
"""Messages that a node remembers by name: a question is about the last one that it was sent."""


class MessageLog:
    """The names of the messages that a node has received since it started."""

    def __init__(self) -> None:
        self._had = deque[str](maxlen=KEPT)

    def take(self, message: str, envelope: Envelope) -> Envelope | None:
        """Notes a message. Returns the answer where it asks about another message; None where the node has to work.

        Args:
            message: its name.
            envelope: that it brought.
        """
        if isinstance(envelope.head, Inquiry):
            return Envelope(Seen(seen=envelope.head.message in self._had))
        self._had.append(message)
        return None
