"""Keeps a site's worker answering: ``python -m fedfm.sites.guard SOCKET --data FILE [--policy FILE]``.

The guard accepts callers and hands each of them to a process of its own, `fedfm.sites.resident`, which reads and
answers the message. That process reports to the guard how long it may take. If it takes longer, or ends (a crash of
native code, no memory), the guard kills it, answers in its place, and starts another.
"""

from __future__ import annotations

import argparse
import logging
import math
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType

from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Envelope, Refusal
from fedfm.sites.causes import Cause
from fedfm.sites.journal import Journal

SECONDS = struct.Struct("<d")
"""What the process reports: seconds that it may take from now on; 0: it has answered, or is ready."""

ENDS = 2
"""The caller gets a refusal when the process has ended so often in a row over a message; before, it may ask again."""

_log = logging.getLogger("fedfm.sites")


class Guard:
    """Hands callers to a worker process, and answers in its place where it cannot."""

    def __init__(self, command: Sequence[str], journal: Journal) -> None:
        """Starts the worker process.

        Args:
            command: starts the process; the guard appends the number of a descriptor, of a socket that brings callers.
            journal: of the site.
        """
        self._command = list(command)
        self._journal = journal
        self._ended = 0
        self._start()

    def serve(self, path: Path) -> None:
        """Answers callers that connect to a socket, until this process is ended by a signal.

        Raises:
            SystemExit: the worker process ends before it can work, with its code.
        """
        with closing(sockets.listen(path)) as server:
            self._await_start()
            while True:
                ready, _, _ = select.select([server, self._line], [], [])
                if self._line in ready:  # an idle process reports nothing, so its end of the socket was closed
                    self._journal.note("failed", None, f"the worker {self._how_it_ended()} while it was idle")
                    self._restart()
                    continue
                caller, _ = server.accept()
                with caller, suppress(OSError):  # the caller has hung up
                    self.attend(caller)

    def attend(self, caller: socket.socket) -> None:
        """Lets the worker process answer a caller, and answers in its place where it does not."""
        begun = False
        try:
            socket.send_fds(self._line, [b"c"], [caller.fileno()])
            end = math.inf
            while True:
                left = None if math.isinf(end) else max(0.0, end - time.monotonic())
                if not select.select([self._line], [], [], left)[0]:
                    self._answer_for_it(caller, Cause.TIME, "it took longer than the policy allows")
                    return
                seconds = self._reported()
                if seconds is None:
                    break
                if seconds == 0:
                    self._ended = 0
                    return
                begun, end = True, time.monotonic() + seconds
        except ConnectionError:
            pass
        self._process.wait()
        self._ended += 1
        how = (
            f"the worker {self._how_it_ended()} over a message; if memory ran out, lower the policy's limits (`max_…`)"
        )
        if begun and self._ended >= ENDS:
            self._answer_for_it(caller, Cause.ENDED, how)
        else:
            self._journal.note("failed", None, how)
            self._restart()

    def close(self) -> None:
        """Ends the worker process."""
        self._process.kill()
        self._process.wait()
        self._line.close()

    def _answer_for_it(self, caller: socket.socket, cause: Cause, reason: str) -> None:
        self._journal.note("refused", None, reason)
        self._ended = 0
        self._process.kill()  # before the answer, so that the process cannot add to it
        self._process.wait()
        try:
            sockets.send(caller, Envelope(Refusal(reason=cause.sentence())))
        finally:
            self._restart()

    def _start(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen([*self._command, str(number)], pass_fds=[number])  # noqa: S603 - its own
        with suppress(OSError):  # if memory runs out, the system is to end the process that takes it, not the guard
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text("1000")

    def _await_start(self) -> None:
        if self._reported() is None:
            sys.exit(self._process.wait() or 1)

    def _restart(self) -> None:
        self.close()
        self._start()
        self._await_start()

    def _reported(self) -> float | None:
        """What the process reports next; None: it has ended."""
        try:
            word = self._line.recv(SECONDS.size, socket.MSG_WAITALL)
        except ConnectionError:
            return None
        return float(SECONDS.unpack(word)[0]) if len(word) == SECONDS.size else None

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def main() -> None:
    """Serves the socket that the command line names."""
    parser = argparse.ArgumentParser(description="A site's worker.")
    parser.add_argument("socket", type=Path, help="where it listens; the site's records are in the same folder")
    parser.add_argument("--data", required=True, help="the site's data.yaml")
    parser.add_argument("--policy", help="the site's policy.yaml")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    folder = options.socket.parent
    policy = ["--policy", options.policy] if options.policy else []
    command = [sys.executable, "-m", "fedfm.sites.resident", str(folder), "--data", options.data, *policy, "--callers"]
    with closing(Guard(command, Journal(folder, _log.info))) as guard:
        guard.serve(options.socket)


if __name__ == "__main__":
    main()
