"""The way to the nodes of a Flower grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx
from flwr.app import Error, Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from google.protobuf.message import DecodeError

from fedfm.runtimes.envelopes import Ask, Envelope, EnvelopeError, Lost, Refusal, Seen
from fedfm.runtimes.flower.records import from_record, to_record

ACTION = "work"
"""Of the messages that carry envelopes."""

TTL = 7 * 86_400.0
"""Seconds that a site may take for its work; Flower by itself gives a message up after 12 hours."""

PATIENCE, PAUSE = 60.0, 0.5
"""Seconds for which calls that the SuperLink could not answer are made again, and between two of them."""

ASK, MISSED = 120.0, 2
"""Seconds without an answer after which a node is asked whether it had its message, and how often it says no until it
is believed."""

UNREADABLE = (
    AttributeError,
    DecodeError,
    IndexError,
    KeyError,
    RecursionError,
    TypeError,
    UnexpectedObjectContentError,
    ValueError,
)
"""What Flower raises where a node's answer is not made as Flower makes one; such an answer is not handed over again."""

Answer = TypeVar("Answer")


@dataclass
class _Sent:
    """A message whose answer is waited for.

    Attributes:
        node: that it went to.
        due: when the node is asked, next, whether it had it.
        pause: seconds from the last question to the next.
        question: Flower's number of the last; None: it was not taken, or it is answered.
        missed: how often the node has said that it had no such message.
    """

    node: str
    due: float
    pause: float
    question: str | None = None
    missed: int = 0


class GridLine:
    """The way to the nodes of a Flower grid: envelopes are pushed as they come, replies pulled one by one.

    While a SuperLink removes a large message its database is locked, and it answers 500 to whoever needs that.

    A message counts as delivered when the SuperLink has begun to hand it over; when the connection breaks just then, no
    answer will come. So nodes that do not answer are asked whether they had it, ever more seldom while nothing comes: a
    SuperNode takes one message after the other, and one that works is not heard of before it is done.
    """

    def __init__(self, grid: Grid, *, ask: float = ASK, clock: Callable[[], float] = time.monotonic) -> None:
        """A way to nodes.

        Args:
            grid: Flower's.
            ask: seconds without an answer after which a node is asked whether it had its message.
            clock: tells the seconds.
        """
        self.grid = grid
        self._ask = ask
        self._clock = clock
        self._sent: dict[str, _Sent] = {}

    def nodes(self) -> list[str]:
        """The nodes that are online."""
        return sorted(str(node) for node in _patiently(self.grid.get_node_ids))

    def push(self, node: str, envelope: Envelope) -> bool:
        """Sends a envelope to a node; whether Flower took it."""
        number = self._push(node, envelope)
        if number is None:
            return False
        self._sent = {other: sent for other, sent in self._sent.items() if sent.node != node}  # too late for those
        self._sent[number] = _Sent(node, self._clock() + self._ask, self._ask)
        return True

    def ask(self, there: Collection[str]) -> None:
        """Asks those of the nodes that are there, and have not answered for long, whether they had their message."""
        for number, sent in self._sent.items():
            if sent.node in there and sent.due <= self._clock():
                sent.pause *= 2
                sent.due = self._clock() + sent.pause
                # a question that was not taken until the next is not handed over any more
                sent.question = self._push(sent.node, Envelope(Ask(message=number)), ttl=sent.pause)

    def pull(self) -> Iterator[tuple[str, Envelope]]:
        """The replies that are there, each pulled when the one before was taken.

        A node that had no message, when it was asked twice, is lost.
        """
        for number, sent in list(self._sent.items()):
            envelopes = self._pull(number)
            if not envelopes and sent.question is not None:
                envelopes = self._heard(sent, self._pull(sent.question))
            if envelopes:
                yield self._sent.pop(number).node, envelopes.pop()

    def _heard(self, sent: _Sent, answers: list[Envelope]) -> list[Envelope]:
        """Takes what a node says to a question, if it does; that it is lost, if so."""
        if answers:
            sent.question = None
        match answers:
            case [Envelope(head=Seen(seen=True))]:
                sent.due = float("inf")
            case [Envelope(head=Seen())]:
                sent.missed += 1
                sent.due, sent.pause = self._clock() + self._ask, self._ask
        # once may be chance: a question is small, and overtakes what is large
        return [Envelope(Lost(reason="its message was lost on the way to it"))] if sent.missed == MISSED else []

    def _push(self, node: str, envelope: Envelope, *, ttl: float = TTL) -> str | None:
        """Sends a envelope to a node; its number, if Flower took it."""

        def pushed() -> list[str]:
            message = Message(to_record(envelope), dst_node_id=int(node), message_type=f"train.{ACTION}", ttl=ttl)
            return list(self.grid.push_messages([message]))

        numbers = _patiently(pushed)
        return numbers[0] if numbers else None

    def _pull(self, number: str) -> list[Envelope]:
        """The answer to a message, if it is there."""
        try:
            replies = list(self.grid.pull_messages([number]))
        except UNREADABLE as error:
            return [Envelope(Refusal(reason=f"Flower cannot read its answer ({type(error).__name__}: {error})"))]
        except httpx.HTTPStatusError as error:
            if not _is_busy(error):
                raise
            if error.request.url.path.endswith("/pull-messages"):
                return []
            return [Envelope(Lost(reason="Flower could not hand over its answer"))]  # and will not try again
        return [_parcel(reply) for reply in replies]


def _parcel(reply: object) -> Envelope:
    if not isinstance(reply, Message):
        return Envelope(Refusal(reason="its answer is not a message of Flower"))
    if reply.has_error():
        return Envelope(Lost(reason=_reason(reply.error)))
    try:
        return from_record(reply.content)
    except EnvelopeError as error:
        return Envelope(Refusal(reason=str(error)))


def _reason(error: Error) -> str:
    lines = (error.reason or "").strip().splitlines()
    return f"Flower reports error {error.code}" + (f": {lines[-1]}" if lines else "")


def _patiently(call: Callable[[], Answer]) -> Answer:
    """What a call gives, which is made again while the SuperLink is busy."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except httpx.HTTPStatusError as error:
            if not _is_busy(error) or time.monotonic() >= end:
                raise
        time.sleep(PAUSE)


def _is_busy(error: httpx.HTTPStatusError) -> bool:
    return error.response.status_code == httpx.codes.INTERNAL_SERVER_ERROR
