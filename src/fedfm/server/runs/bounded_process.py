"""Another program with limits: of time, and of what it may print. It is ended with everything in its process group."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.02
"""How often the program is asked whether it has ended: its pipes may stay open, held by a child of it."""


@dataclass(frozen=True)
class ProgramEnd:
    """How a program ended.

    Attributes:
        code: exit status; negative: the signal that ended it.
        stdout: what it printed.
        stderr: what it printed there.
        limit: the limit that it exceeded, as the end of a sentence ("ran longer than 5 s"); None: it ended by itself.
    """

    code: int
    stdout: bytes
    stderr: bytes
    limit: str | None = None


def play(
    command: Sequence[str],
    given: bytes = b"",
    *,
    timeout_s: float,
    most_bytes: int,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> ProgramEnd:
    """Runs a program in a session of its own until it ends or exceeds a limit, and then kills what is left of it.

    Args:
        command: the program and its arguments; no shell reads them.
        given: its standard input.
        timeout_s: wall time.
        most_bytes: that it may print, to each of standard output and standard error.
        folder: it runs in; None: this one.
        environment: its variables; None: those of this process.

    Raises:
        OSError: it cannot be started.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(  # noqa: S603 - the user names the program
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        cwd=folder,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            printed, limit = _talk(process, given, time.monotonic() + timeout_s, most_bytes)
        finally:
            with suppress(ProcessLookupError, PermissionError):  # all of the group have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    limits = {"time": f"ran longer than {timeout_s:g} s", "output": f"printed more than {most_bytes:,} bytes"}
    stdout, stderr = (bytes(part[:most_bytes]) for part in printed)
    return ProgramEnd(process.returncode, stdout, stderr, limits.get(limit))


def _talk(
    process: subprocess.Popen[bytes], given: bytes, deadline: float, most_bytes: int
) -> tuple[list[bytearray], str]:
    """Writes and reads until the program has ended; what it printed, and the limit it exceeded (empty: none)."""
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise ValueError("a program with pipes")
    rest, printed = memoryview(given), [bytearray(), bytearray()]
    with selectors.DefaultSelector() as waiting:
        for number, stream in enumerate((process.stdout, process.stderr)):
            os.set_blocking(stream.fileno(), False)
            waiting.register(stream, selectors.EVENT_READ, number)
        os.set_blocking(process.stdin.fileno(), False)
        waiting.register(process.stdin, selectors.EVENT_WRITE)
        while True:
            ended = _has_ended(process)  # before reading, so that its last words are read
            if not ended and time.monotonic() > deadline:
                return printed, "time"
            for key, event in waiting.select(0 if ended else _POLL_S):
                if event == selectors.EVENT_WRITE:
                    with suppress(BlockingIOError):
                        try:
                            rest = rest[os.write(key.fd, rest[:65536]) :] if rest else rest
                        except BrokenPipeError:  # it does not want to read
                            rest = rest[:0]
                    if not rest:
                        waiting.unregister(process.stdin)
                        process.stdin.close()
                    continue
                piece = os.read(key.fd, 65536)
                if not piece:
                    waiting.unregister(key.fileobj)
                printed[key.data] += piece
                if len(printed[key.data]) > most_bytes:
                    return printed, "output"
                ended = ended and not piece  # there may be more
            if ended:
                return printed, ""


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the program has ended; it stays a zombie, so that its group keeps its number until it is killed."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
