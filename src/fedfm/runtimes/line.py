"""The line: what connects a runtime to its nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedfm.runtimes.envelopes import Envelope, Lost, Replies


@dataclass(frozen=True)
class Part:
    """A part of a node's answer.

    Attributes:
        node: that answers.
        envelope: what it says. `Lost` says why there is no answer, or no more of it.
        last: whether nothing else answers what the node was sent.
    """

    node: str
    envelope: Envelope
    last: bool = True

    @classmethod
    def lost(cls, node: str, reason: str, *, late: bool = False) -> Part:
        """The part that ends an answer which will not come."""
        return cls(node, Envelope(Lost(reason=reason, late=late)))

    @classmethod
    def end(cls, node: str) -> Part:
        """The part that ends an answer in several parts."""
        return cls(node, Envelope(Replies(clients=())))


class Line(Protocol):
    """Carries envelopes to nodes and their answers back. A node works on one envelope at a time."""

    def nodes(self, *, wait: bool = True) -> Sequence[str]:
        """The nodes that are there now, sorted.

        Args:
            wait: whether to wait until there are as many as the line was made to wait for.
        """
        ...

    def push(self, node: str, envelope: Envelope, *, most: int | None, within: float | None = None) -> None:
        """Sends an envelope to a node whose earlier ones are answered, lost or dropped.

        Args:
            node: to send it to.
            envelope: to send.
            most: bytes that the blobs of the answer may have: a node that others run does not decide how much memory
                its answer takes. A larger answer becomes a `Refusal`. None: any number.
            within: seconds for the answer, in place of the line's own deadline.
        """
        ...

    def pull(self, timeout: float | None = None) -> Part | None:
        """Returns the next part of an answer; None when no node owes one, or the timeout has passed.

        Args:
            timeout: seconds to wait for it; None: no limit but the nodes' deadlines.
        """
        ...

    def drop(self) -> None:
        """Gives up the answers that nodes owe; they are never returned, nor taken for answers to later envelopes."""
        ...

    def attend(self, check: Callable[[], None]) -> None:
        """Calls ``check`` about once a second while the line waits; an exception that it raises ends the waiting."""
        ...

    def close(self) -> None:
        """Releases the nodes."""
        ...
