"""Kills `fedfm` (SIGKILL) at a point of a round."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from fedfm.protocols import Ask
from fedfm.runtimes.relay import RelayLine
from fedfm.server.rounds import checkpoints
from fedfm.server.rounds.driver import Driver
from fedfm.server.rounds.exchange import Exchange
from fedfm.server.runs import start as runs
from tests.started import command


class Killer:
    """Kills this process in one round; 0 is what comes before the first."""

    def __init__(self, number: int) -> None:
        self.number, self.playing = number, 0
        self.before(Exchange, "submit", self._count)

    def before(self, owner: object, name: str, when: Callable[..., bool] = lambda *arguments: True) -> None:
        """Kills when a function is called with such arguments."""
        whole = getattr(owner, name)

        def dying(*arguments: Any, **options: Any) -> Any:
            if when(*arguments):
                self._kill()
            return whole(*arguments, **options)

        setattr(owner, name, dying)

    def _count(self, exchange: Exchange, asks: Mapping[str, Ask]) -> bool:
        self.playing = max(ask.round for ask in asks.values())
        return False

    def _kill(self) -> None:
        if self.playing == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def _asked(line: RelayLine, *more: object) -> bool:
    """Whether all sites that owe an answer have been sent work: an answer to anything else has no blobs."""
    owed = list(line._owed.values())
    if not owed or not all(each.most for each in owed):
        return False
    while not all(each.written for each in owed):
        time.sleep(0.01)
    return True


POINTS: dict[str, Callable[[Killer], None]] = {
    "begun": lambda killer: killer.before(runs, "environment"),
    "asked": lambda killer: killer.before(RelayLine, "pull", _asked),
    "answered": lambda killer: killer.before(Exchange, "require"),
    "aggregated": lambda killer: killer.before(Driver, "_check_finite"),
    "writing": lambda killer: killer.before(
        checkpoints.tensors, "save", lambda params, path: path.name == "server.safetensors"
    ),
    "written": lambda killer: killer.before(checkpoints, "replace_text"),
    "finishing": lambda killer: killer.before(runs, "write_outcome"),
}
"""Where a server can be killed, in the order in which a run gets there.

begun: the folder has its recipe, and nothing else. asked: all sites have been sent their work, none has answered.
answered: all have. aggregated: the algorithm's step is done. writing: the round's records are written, and some of its
checkpoint. written: all of that, and LATEST names the round before. finishing: the last round is saved, and nothing is
there of the outcome.
"""


def killed(point: str, number: int, *arguments: str) -> None:
    """`fedfm` with these arguments, killed at a point of a round."""
    POINTS[point](Killer(number))
    command(*arguments)
