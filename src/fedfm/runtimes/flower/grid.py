"""Envelopes over a Flower grid: pushed to nodes, and their answers pulled."""

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

from fedfm.runtimes.envelopes import Envelope, EnvelopeError, Inquiry, Lost, Refusal, Seen
from fedfm.runtimes.flower.records import from_record, to_record

ACTION = "work"
"""Action of the messages that carry envelopes, in Flower's terms."""

TTL = 7 * 86_400.0
"""Seconds that a site may take for its work; Flower's default is 12 hours."""

PATIENCE, PAUSE = 60.0, 0.5
"""Seconds for which calls are repeated that the SuperLink could not answer, and between two of them."""

ASK, MISSED = 120.0, 2
"""Seconds without an answer after which a node is asked whether it has received its message, and how often it has to
say no until the message counts as lost."""

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
"""Errors that Flower raises for a node's answer that is not well formed; it does not deliver such an answer again."""

Answer = TypeVar("Answer")


@dataclass
class _Sent:
    """A message whose answer is waited for.

    Attributes:
        node: that it went to.
        due: when the node is asked next whether it has received it.
        pause: seconds from the last question to the next.
        question: Flower's number of the last question; None: Flower did not take it, or it is answered.
        missed: how often the node has said that it has not received the message.
    """

    node: str
    due: float
    pause: float
    question: str | None = None
    missed: int = 0


class GridNodes:
    """The nodes of a Flower grid: envelopes are pushed as they come, answers pulled one by one.

    While a SuperLink removes a large message its database is locked, and it answers 500 to calls that need it.

    A message counts as delivered when the SuperLink has begun to send it; when the connection breaks at that moment, no
    answer will come. So nodes that do not answer are asked whether they have received it, at growing intervals: a
    SuperNode takes one message after the other, and answers nothing while it works.
    """

    def __init__(self, grid: Grid, *, ask: float = ASK, clock: Callable[[], float] = time.monotonic) -> None:
        """The nodes of a grid.

        Args:
            grid: Flower's.
            ask: seconds without an answer after which a node is asked whether it has received its message.
            clock: returns the time in seconds.
        """
        self.grid = grid
        self._ask = ask
        self._clock = clock
        self._sent: dict[str, _Sent] = {}

    def nodes(self) -> list[str]:
        """The nodes that are online."""
        return sorted(str(node) for node in _patiently(self.grid.get_node_ids))

    def push(self, node: str, envelope: Envelope) -> bool:
        """Sends an envelope to a node, in place of earlier ones that it has not answered; whether Flower took it."""
        number = self._push(node, envelope)
        if number is None:
            return False
        self._sent = {other: sent for other, sent in self._sent.items() if sent.node != node}  # too late
        self._sent[number] = _Sent(node, self._clock() + self._ask, self._ask)
        return True

    def ask(self, there: Collection[str]) -> None:
        """Asks nodes that are there, and have not answered for long, whether they have received their message."""
        for number, sent in self._sent.items():
            if sent.node in there and sent.due <= self._clock():
                sent.pause *= 2
                sent.due = self._clock() + sent.pause
                # a question that was not delivered before the next one is dropped
                sent.question = self._push(sent.node, Envelope(Inquiry(message=number)), ttl=sent.pause)

    def pull(self) -> Iterator[tuple[str, Envelope]]:
        """The answers that are there, each pulled when the caller has taken the one before.

        A node that says twice that it has not received its message is lost.
        """
        for number, sent in list(self._sent.items()):
            envelopes = self._pull(number)
            if not envelopes and sent.question is not None:
                envelopes = self._heard(sent, self._pull(sent.question))
            if envelopes:
                yield self._sent.pop(number).node, envelopes.pop()

    def _heard(self, sent: _Sent, answers: list[Envelope]) -> list[Envelope]:
        """Takes a node's answer to a question, if any; returns `Lost` where its message is lost."""
        if answers:
            sent.question = None
        match answers:
            case [Envelope(head=Seen(seen=True))]:
                sent.due = float("inf")
            case [Envelope(head=Seen())]:
                sent.missed += 1
                sent.due, sent.pause = self._clock() + self._ask, self._ask
        # one may be by chance: a question is small, and overtakes a large message
        return [Envelope(Lost(reason="its message was lost on the way to it"))] if sent.missed == MISSED else []

    def _push(self, node: str, envelope: Envelope, *, ttl: float = TTL) -> str | None:
        """Sends an envelope to a node; returns Flower's number, or None where Flower did not take it."""

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
            return [Envelope(Lost(reason="Flower could not deliver its answer"))]  # and will not try again
        return [_envelope(reply) for reply in replies]


def _envelope(reply: object) -> Envelope:
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
    """The result of a call, which is repeated while the SuperLink is busy."""
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
