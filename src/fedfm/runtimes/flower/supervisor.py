"""Processes of a federation: started together, watched, ended together."""

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
"""Seconds that processes have to end when they are told to."""

COLOUR = re.compile(r"\x1b\[\d*m")

LAST_WORDS = 10
"""Lines of a process's output that are shown when it has failed."""


class Supervisor:
    """Starts processes, each with its words in a file, and knows when one has ended."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """A supervisor without processes.

        Args:
            folder: of the files of their words.
            environment: what they get beside that of this process; nothing of what this one has for Flower.
        """
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
        self._environment = {**kept, **environment}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._began: dict[str, int] = {}

    def start(self, name: str, *command: str) -> None:
        """Starts a process that ends with this one, in a group of its own with what it starts itself.

        What an earlier one of the same name has left is killed.

        Args:
            name: of the process, for messages and for the file of its words.
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
        """Kills a process, if there is one of this name, and all that it has started."""
        if (process := self._processes.pop(name, None)) is not None:
            _signal(process, signal.SIGKILL)
            process.wait()

    def ended(self) -> dict[str, int]:
        """Processes that have ended → their exit codes."""
        found = ((name, process.poll()) for name, process in self._processes.items())
        return {name: code for name, code in found if code is not None}

    def check(self) -> None:
        """Nothing, while all processes run.

        Raises:
            TooFewClientsError: one has ended; shows its last words.
        """
        for name, code in self.ended().items():
            raise TooFewClientsError(f"the {name} ended with code {code}{self.last_words(name)}")

    def words(self, name: str) -> str:
        """What a process has said since it was started, without colours."""
        words = (self.folder / f"{name}.log").read_bytes()[self._began.get(name, 0) :]
        return COLOUR.sub("", words.decode(errors="replace"))

    def last_words(self, name: str) -> str:
        """What a process said last, each line indented on a new one."""
        said = [words for words in self.words(name).splitlines() if words.strip()][-LAST_WORDS:]
        return "".join(f"\n  {line(words)}" for words in said)

    def close(self) -> None:
        """Tells all processes to end, the last first, and kills those that do not."""
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
