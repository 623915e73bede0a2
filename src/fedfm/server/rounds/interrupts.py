"""Ctrl-C is safe: the first one ends the run at the next client, the second at once.

So are SIGTERM, which a service manager sends, and SIGHUP, which is sent when the terminal is closed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fedfm.errors import InterruptedRunError

REASONS = {signal.SIGINT: "", signal.SIGTERM: " (SIGTERM)", signal.SIGHUP: " (SIGHUP: its terminal was closed)"}
"""Signal that asks a run to stop → why, in words that follow where it stopped."""


class StopRequest:
    """Whether a run was asked to stop, and why."""

    def __init__(self) -> None:
        self.requested = False
        self.reason = ""

    def check(self, where: str) -> None:
        """Ends here if the run was asked to stop.

        Raises:
            InterruptedRunError: it was.
        """
        if self.requested:
            raise InterruptedRunError(f"stopped {where}{self.reason}")


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns signals into a request while the block runs; outside the main thread nothing is caught.

    A process that ignores SIGHUP goes on doing so: it was started by ``nohup``. A terminal that is closed may send
    SIGHUP more than once, so this never counts as a second request.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.requested and number != signal.SIGHUP:
            raise KeyboardInterrupt
        if not stop.requested:
            stop.requested, stop.reason = True, REASONS[signal.Signals(number)]

    caught = [number for number in REASONS if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)]
    before = {number: signal.signal(number, ask) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
