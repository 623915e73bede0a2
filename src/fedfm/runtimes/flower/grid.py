"""The way to the nodes of a Flower grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx
from flwr.app import Error, Message
from flwr.serverapp import Grid

from fedfm.runtimes.flower.records import from_record, to_record
from fedfm.runtimes.parcels import Lost, Parcel, ParcelError, Refusal

ACTION = "work"
"""Of the messages that carry parcels."""

PATIENCE, PAUSE = 60.0, 0.5
"""Seconds for which calls that the SuperLink could not answer are made again, and between two of them."""

Answer = TypeVar("Answer")


class GridLine:
    """The way to the nodes of a Flower grid: parcels are pushed as they come, replies pulled one by one.

    While a SuperLink removes a large message its database is locked, and it answers 500 to whoever needs that.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._asked: dict[str, str] = {}

    def nodes(self) -> list[str]:
        """The nodes that are online."""
        return sorted(str(node) for node in _patiently(self.grid.get_node_ids))

    def push(self, node: str, parcel: Parcel) -> bool:
        """Sends a parcel to a node; whether Flower took it."""

        def pushed() -> list[str]:
            message = Message(to_record(parcel), dst_node_id=int(node), message_type=f"train.{ACTION}")
            return list(self.grid.push_messages([message]))

        numbers = _patiently(pushed)
        if not numbers or numbers[0] is None:
            return False
        self._asked = {number: other for number, other in self._asked.items() if other != node}  # too late for those
        self._asked[numbers[0]] = node
        return True

    def pull(self) -> Iterator[tuple[str, Parcel]]:
        """The replies that are there, each pulled when the one before was taken."""
        for number in list(self._asked):
            try:
                parcels = [_parcel(reply) for reply in self.grid.pull_messages([number])]
            except httpx.HTTPStatusError as error:
                if not _is_busy(error):
                    raise
                if error.request.url.path.endswith("/pull-messages"):
                    continue
                parcels = [Parcel(Lost(reason="Flower could not hand over its answer"))]  # and will not try again
            if parcels:
                yield self._asked.pop(number), parcels.pop()


def _parcel(reply: Message) -> Parcel:
    if reply.has_error():
        return Parcel(Lost(reason=_reason(reply.error)))
    try:
        return from_record(reply.content)
    except ParcelError as error:
        return Parcel(Refusal(reason=str(error)))


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
