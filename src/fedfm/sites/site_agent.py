"""Keeps a site in its federation: starts its worker and its SuperNode, and starts them again when they end."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fedfm.data.sources import read_source
from fedfm.errors import RecipeError
from fedfm.private import private
from fedfm.runtimes.flower.folder import hold
from fedfm.runtimes.flower.superlink import environment
from fedfm.runtimes.flower.supernode import (
    CONNECTED,
    PERMANENT,
    REASONS,
    UNEXPLAINED,
    free_ports,
    start_supernode,
    why_ended,
)
from fedfm.runtimes.flower.supervisor import Supervisor
from fedfm.sites.policy import Policy
from fedfm.sites.site_config import read_settings, read_site_data

RESTART_PAUSES = (1.0, 5.0, 15.0, 30.0, 60.0)
"""Seconds before a process is started again for the first time, the second time, …; the last value is for the rest."""

STABLE_SECONDS = 120.0
"""A process that has run for so many seconds counts as stable: its next end is again its first."""

FREE_BYTES = 2**16
"""Bytes that must be free on the disk of a site's folder; with fewer, its records and logs cannot be written."""

CONNECT_SECONDS = 20.0
"""Seconds without a connection, after which the agent says what may be wrong."""

WORKER, NODE = "worker", "supernode"
"""Names of the agent's processes."""


class LogFollower:
    """Says the lines that are added to a log."""

    def __init__(self, log: Path, say: Callable[[str], None]) -> None:
        """Begins at the present end of the log, which may not exist yet."""
        self._log, self._say = log, say
        self._read = log.stat().st_size if log.exists() else 0

    def follow(self) -> None:
        """Says the whole lines that were added since, without control characters."""
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(self._read)
            new, ended, _ = log.read().rpartition(b"\n")
        self._read += len(new) + len(ended)
        for line in new.decode(errors="replace").split("\n") if ended else []:
            self._say("".join(letter if letter.isprintable() else " " for letter in line))


@dataclass
class SiteAgent:
    """Takes part in the runs of a server until it is stopped.

    Attributes:
        server: host and port.
        authority: certificate of the authority that signed the server's certificate.
        key: the site's private key.
        data: the site's ``data.yaml``.
        policy: its ``policy.yaml``; None: the default of every key.
        folder: of the site's records and the logs of its processes.
        say: gets lines for people about the state of the site.
    """

    server: str
    authority: Path
    key: Path
    data: Path
    policy: Path | None
    folder: Path
    say: Callable[[str], None]
    _connected: bool = False
    _doubted: bool = False
    _full: bool = False
    _failures: dict[str, int] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)

    def check(self) -> tuple[int, list[str]]:
        """Reads the site's files before anything is connected.

        Returns:
            The number of the site's examples, and the names of their columns.

        Raises:
            RecipeError: a file of the site is not valid.
            DataError: its data cannot be read.
        """
        if self.policy is not None:
            read_settings(self.policy, Policy)
        host, _, port = self.server.rpartition(":")
        if not host or not port.isdigit():
            raise RecipeError(f"`{self.server}` is not HOST:PORT, such as fl.example.org:443", source="--server")
        site = read_site_data(self.data)
        try:
            source = read_source(site.train, "train", where="train", csv=site.csv)
        except RecipeError as error:
            raise RecipeError(error.problems, source=str(self.data)) from error
        for note in source.notes:
            self.say(f"warning: {note}")
        return len(source), source.table.column_names

    @private()
    def run(self) -> None:
        """Stays in the federation until Ctrl-C, SIGTERM or SIGHUP; processes that end are started again.

        Raises:
            RecipeError: the SuperNode ended for a reason that a restart cannot change, or another process uses the
                folder.
            StorageError: the site's folder cannot be written.
        """
        lock = hold(self.folder)
        policy = Policy() if self.policy is None else read_settings(self.policy, Policy)
        offline = {} if policy.allow_network else {"HF_HUB_OFFLINE": "1"}
        supervisor = Supervisor(self.folder, environment(self.folder) | offline)
        log = LogFollower(self.folder / f"{WORKER}.log", self.say)
        ends = [signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else [])]
        before = {number: signal.signal(number, _stop) for number in ends}
        try:
            for name in (WORKER, NODE):
                self._start(supervisor, name)
            while True:
                time.sleep(1.0)
                log.follow()
                self._check_connection(supervisor)
                self._check_disk()
                self._restart_ended(supervisor)
        except KeyboardInterrupt:
            self.say("this site leaves the federation")
        finally:
            supervisor.close()
            log.follow()
            lock.release()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, supervisor: Supervisor, name: str) -> None:
        self._started[name] = time.monotonic()
        self._connected = self._connected and name != NODE
        worker = self.folder / "worker.sock"
        if name == WORKER:
            policy = [] if self.policy is None else ["--policy", str(self.policy)]
            command = [sys.executable, "-m", "fedfm.sites.guard", str(worker), "--data", str(self.data), *policy]
            supervisor.start(name, *command)
        else:
            (port,) = free_ports(1)
            start_supernode(
                supervisor,
                name,
                server=self.server,
                authority=self.authority,
                key=self.key,
                worker=worker,
                port=port,
            )

    def _restart_ended(self, supervisor: Supervisor) -> None:
        """Starts processes again that have ended, each after its pause."""
        for name, code in supervisor.ended().items():
            if name not in self._due:
                self._due[name] = time.monotonic() + self._pause(supervisor, name, code)
            elif time.monotonic() >= self._due[name]:
                del self._due[name]
                self._start(supervisor, name)

    def _check_connection(self, supervisor: Supervisor) -> None:
        """Says when the server has accepted this site, and when it has not done so for a while."""
        if not self._connected and CONNECTED in supervisor.words(NODE):
            self.say("connected; the server calls when it has work")
            self._connected = True
        elif not self._connected and not self._doubted and time.monotonic() - self._started[NODE] > CONNECT_SECONDS:
            self.say(
                f"no connection yet: does {self.server} answer, and did the authority in {self.authority} sign its "
                f"certificate? (see {self.folder / NODE}.log)"
            )
            self._doubted = True

    def _check_disk(self) -> None:
        """Says when the disk is full, and when it has room again: the worker cannot write that to its log."""
        full = shutil.disk_usage(self.folder).free < FREE_BYTES
        if full and not self._full:
            self.say(
                f"warning: {self.folder}: {os.strerror(errno.ENOSPC)}; an update leaves only after it is recorded "
                "here, so no update leaves until the disk has room"
            )
        elif self._full and not full:
            self.say(f"the disk of {self.folder} has room again")
        self._full = full

    def _pause(self, supervisor: Supervisor, name: str, code: int) -> float:
        """Seconds until a process that has ended is started again; says so, and why the process ended."""
        reason = why_ended(supervisor.words(name)) if name == NODE else None
        why = f": {REASONS[reason]}" if reason in REASONS else supervisor.last_words(name)
        if name == NODE and code == 0:
            why = f": {UNEXPLAINED}"
        if reason in PERMANENT:
            raise RecipeError(f"Flower's SuperNode ended{why}", source="client")
        if time.monotonic() - self._started[name] > STABLE_SECONDS:
            self._failures[name] = 0
        failures = self._failures.get(name, 0)
        self._failures[name] = failures + 1
        pause = RESTART_PAUSES[min(failures, len(RESTART_PAUSES) - 1)]
        self.say(f"the {name} ended with code {code} and starts again in {pause:g} seconds{why}")
        return pause


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
