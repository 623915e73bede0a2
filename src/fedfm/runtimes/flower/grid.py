"""The way to the nodes of a Flower grid."""

from __future__ import annotations

from collections.abc import Iterator

from flwr.app import Error, Message
from flwr.serverapp import Grid

from fedfm.runtimes.flower.records import from_record, to_record
from fedfm.runtimes.parcels import Lost, Parcel, ParcelError, Refusal

ACTION = "work"
"""Of the messages that carry parcels."""


class GridLine:
    """The way to the nodes of a Flower grid: parcels are pushed as they come, replies pulled one by one."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._asked: dict[str, str] = {}

    def nodes(self) -> list[str]:
        """The nodes that are online."""
        return sorted(str(node) for node in self.grid.get_node_ids())

    def push(self, node: str, parcel: Parcel) -> bool:
        """Sends a parcel to a node; whether Flower took it."""
        message = Message(to_record(parcel), dst_node_id=int(node), message_type=f"train.{ACTION}")
        numbers = list(self.grid.push_messages([message]))
        if not numbers or numbers[0] is None:
            return False
        self._asked = {number: other for number, other in self._asked.items() if other != node}  # too late for those
        self._asked[numbers[0]] = node
        return True

    def pull(self) -> Iterator[tuple[str, Parcel]]:
        """The replies that are there, each pulled when the one before was taken."""
        for number in list(self._asked):
            for reply in self.grid.pull_messages([number]):
                node = self._asked.pop(number)
                if reply.has_error():
                    yield node, Parcel(Lost(reason=_reason(reply.error)))
                    continue
                try:
                    answer = from_record(reply.content)
                except ParcelError as error:
                    answer = Parcel(Refusal(reason=str(error)))
                yield node, answer


def _reason(error: Error) -> str:
    lines = (error.reason or "").strip().splitlines()
    return f"Flower reports error {error.code}" + (f": {lines[-1]}" if lines else "")
