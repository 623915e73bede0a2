"""What a node has had of late, so that it can say so when it is asked."""

from __future__ import annotations

from collections import deque

from fedfm.runtimes.envelopes import Ask, Envelope, Seen

KEPT = 64
"""Messages that a node remembers by name: a question is for the last that it was sent."""


class MessageLog:
    """The names of the messages that a node has had since it started."""

    def __init__(self) -> None:
        self._had = deque[str](maxlen=KEPT)

    def take(self, message: str, envelope: Envelope) -> Envelope | None:
        """Notes a message; where it is a question for another, the answer, and None where it is for the node to do.

        Args:
            message: its name.
            envelope: that it brought.
        """
        if isinstance(envelope.head, Ask):
            return Envelope(Seen(seen=envelope.head.message in self._had))
        self._had.append(message)
        return None
