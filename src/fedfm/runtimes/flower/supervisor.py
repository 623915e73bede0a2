"""Processes of a federation, which are started, watched and ended together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fedfm.errors import TooFewClientsError
from fedfm.printable import line

STOP = 10.0
"""Seconds that processes have to end after SIGTERM."""

COLOUR = re.compile(r"\x1b\[\d*m")

LAST_WORDS = 10
"""Lines of a process's output that are shown when it has failed."""


class Supervisor:
    """Starts processes, each with a log file for its output, and detects which have ended."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """A supervisor without processes.

        Args:
            folder: of the log files.
            environment: added to that of this process; Flower's variables of this process are left out.
        """
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
        self._environment = {**kept, **environment}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._began: dict[str, int] = {}

    def start(self, name: str, *command: str) -> None:
        """Starts a process that ends with this one, in a group of its own with what it starts itself.

        An earlier process of the same name is killed first, with all that it has started.

        Args:
            name: of the process, in messages and in the name of its log file.
            command: its program and arguments.
        """
        self.kill(name)
        with (self.folder / f"{name}.log").open("ab") as words:
            self._began[name] = words.tell()
            self._processes[name] = subprocess.Popen(  # noqa: S603 - its own tools
                [sys.executable, "-m", "fedfm.runtimes.child_guard", *command],
                stdout=words,
                stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
                umask=0o077,
            )

    def kill(self, name: str) -> None:
        """Kills the process of this name and all that it has started; does nothing where no process has the name."""
        if (process := self._processes.pop(name, None)) is not None:
            _signal(process, signal.SIGKILL)
            process.wait()

    def ended(self) -> dict[str, int]:
        """Processes that have ended → their exit codes."""
        found = ((name, process.poll()) for name, process in self._processes.items())
        return {name: code for name, code in found if code is not None}

    def check(self) -> None:
        """Checks that all processes run.

        Raises:
            TooFewClientsError: one has ended; the message has the end of its output.
        """
        for name, code in self.ended().items():
            raise TooFewClientsError(f"the {name} ended with code {code}{self.last_words(name)}")

    def words(self, name: str) -> str:
        """The output of a process since it was started, without colours."""
        words = (self.folder / f"{name}.log").read_bytes()[self._began.get(name, 0) :]
        return COLOUR.sub("", words.decode(errors="replace"))

    def last_words(self, name: str) -> str:
        """The last lines of a process's output, each indented on a new line."""
        said = [words for words in self.words(name).splitlines() if words.strip()][-LAST_WORDS:]
        return "".join(f"\n  {line(words)}" for words in said)

    def close(self) -> None:
        """Sends SIGTERM to all processes, the last one first, and kills those that do not end."""
        for process in reversed(self._processes.values()):
            _signal(process, signal.SIGTERM)
        end = time.monotonic() + STOP
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
