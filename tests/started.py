"""Functions and commands in separate processes, forked from a process that has imported what most of them need.

A fresh interpreter spends up to ten seconds of a core on imports. A forked process is otherwise what a user starts: it
has its own folder, environment, output, signals and children, and no state of the process that runs the tests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import pytest

PATIENCE = 600.0
"""Seconds to wait for the end of a process."""

PRELOADED = [
    "fedfm.cli.main",
    "fedfm.server.runs.serving",
    "fedfm.server.runs.start",
    "fedfm.sites.resident",
    "fedfm.sites.site_agent",
    "fedfm.runtimes.flower.admission",
    "peft",
    "transformers.models.bert.modeling_bert",
]
"""What most processes need."""

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(PRELOADED)


def command(*arguments: str) -> None:
    """`fedfm` with these arguments."""
    from fedfm.cli.main import main

    main(arguments, prog_name="fedfm")


@dataclass(frozen=True)
class Finished:
    """What a process that has ended left: its exit code, and what it wrote."""

    code: int
    output: str
    errors: str


def finish(target: Callable[..., None], *arguments: object, folder: Path | None = None) -> Finished:
    """Runs a function in a process of its own and waits for its end.

    Args:
        target: a function that its module's name and its own lead to; it is imported there.
        arguments: for it.
        folder: the working directory; that of the tests, if it is not given.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output, errors = (Path(scratch) / name for name in ("output", "errors"))
        code = Started(folder or Path.cwd(), output, errors, target, arguments).wait(PATIENCE)
        return Finished(code, output.read_text(), errors.read_text())


class Started:
    """A function in a process of its own, with the methods of `subprocess.Popen`."""

    def __init__(
        self, folder: Path, output: Path, errors: Path, target: Callable[..., None], arguments: Sequence[object]
    ) -> None:
        """Starts it.

        Args:
            folder: its working directory.
            output: what it prints is added to this file.
            errors: what it prints to stderr is added to this file.
            target: a function that its module's name and its own lead to; it is imported there.
            arguments: for it.
        """
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")  # torch read it when it was imported, so a later one changes nothing
            forkserver.ensure_running()
        given = (dict(os.environ), folder, output, errors, target, tuple(arguments))
        self._process = _forkserver.Process(target=_run, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the number of the signal that killed it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    environment: dict[str, str],
    folder: Path,
    output: Path,
    errors: Path,
    target: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for stream, path in ((sys.stdout, output), (sys.stderr, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, stream.fileno())
        os.close(file)
    target(*arguments)
