"""What clients were asked and have not answered, and the order in which their replies count."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from fedfm.runtimes.base import Runtime
from fedfm.server.rounds.arrivals import Arrival
from fedfm.server.rounds.messages import Message
from fedfm.updates import Reply


@dataclass
class Pending:
    """What lasts from one round to the next while a process plays a run.

    Attributes:
        runtime: carries messages.
        replay: what arrived before the run was interrupted, in order.
        outstanding: client id → what it was asked and has not answered.
        early: replies that arrived before their turn in ``replay``.
    """

    runtime: Runtime
    replay: deque[Arrival] = field(default_factory=deque)
    outstanding: dict[str, Message] = field(default_factory=dict)
    early: dict[str, Reply] = field(default_factory=dict)

    def next(self) -> Reply | None:
        """The next reply, in the order of ``replay`` as far as its clients have been asked."""
        while True:
            while self.replay and self.replay[0].client not in self.outstanding:
                self.replay.popleft()  # it was asked before the run was interrupted, and is not asked now
            if self.early and (not self.replay or self.replay[0].client in self.early):
                first = self.replay[0].client if self.replay else next(iter(self.early))
                return self.early.pop(first)
            reply = self.runtime.next()
            if reply is None or not self.replay or reply.client == self.replay[0].client:
                return reply
            self.early[reply.client] = reply
