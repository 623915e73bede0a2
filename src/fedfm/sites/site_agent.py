"""A site as a member of a federation: its worker and its SuperNode, kept alive."""

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
    SILENT,
    free_ports,
    start_supernode,
    why_ended,
)
from fedfm.runtimes.flower.supervisor import Supervisor
from fedfm.sites.policy import Policy
from fedfm.sites.site_config import read_own_data, read_settings

PAUSES = (1.0, 5.0, 15.0, 30.0, 60.0)
"""Seconds before a process is started again, for the first time, the second, …; the last also from then on."""

WELL = 120.0
"""Seconds after which a process that ends is taken to have been well."""

ROOM = 2**16
"""Bytes that must be free on the disk of a site's folder; with less, its records and logs cannot be written."""

DOUBT = 20.0
"""Seconds without a connection after which it is said what may be wrong."""

WORKER, NODE = "worker", "supernode"


class Follower:
    """Says the lines that are added to a log."""

    def __init__(self, log: Path, say: Callable[[str], None]) -> None:
        """Begins at the end of the log as it is now; there may be none yet."""
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
class Member:
    """Takes part in whatever a server runs, until it is told to stop.

    Attributes:
        server: host and port.
        authority: certificate of who has signed the server's.
        key: the site's private key.
        data: the site's ``data.yaml``.
        policy: its ``policy.yaml``; None: a policy that mentions nothing.
        folder: of its records (``wire.jsonl``) and the words of its processes.
        say: is told, in lines for people, how it fares.
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
        """Reads what is to be read, before anything is connected; examples of the site, and their columns.

        Raises:
            RecipeError: the site's files do not say what they should.
            DataError: its data cannot be read.
        """
        if self.policy is not None:
            read_settings(self.policy, Policy)
        host, _, port = self.server.rpartition(":")
        if not host or not port.isdigit():
            raise RecipeError(f"`{self.server}` is no host and port, such as fl.example.org:443", source="--server")
        own = read_own_data(self.data)
        try:
            source = read_source(own.train, "train", where="train", csv=own.csv)
        except RecipeError as error:
            raise RecipeError(error.problems, source=str(self.data)) from error
        for note in source.notes:
            self.say(f"warning: {note}")
        return len(source), source.table.column_names

    @private()
    def stay(self) -> None:
        """Stays in the federation until Ctrl-C, SIGTERM or SIGHUP; processes that end are started again.

        Raises:
            RecipeError: the SuperNode ended for a reason that no second start mends, or another process has the folder.
            StorageError: the site's folder cannot be written.
        """
        lock = hold(self.folder)
        policy = Policy() if self.policy is None else read_settings(self.policy, Policy)
        offline = {} if policy.allow_network else {"HF_HUB_OFFLINE": "1"}
        supervisor = Supervisor(self.folder, environment(self.folder) | offline)
        log = Follower(self.folder / f"{WORKER}.log", self.say)
        ends = [signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else [])]
        before = {number: signal.signal(number, _stop) for number in ends}
        try:
            for name in (WORKER, NODE):
                self._start(supervisor, name)
            while True:
                time.sleep(1.0)
                log.follow()
                self._look(supervisor)
                self._look_at_disk()
                for name, code in supervisor.ended().items():
                    if name not in self._due:
                        self._due[name] = time.monotonic() + self._pause(supervisor, name, code)
                    elif time.monotonic() >= self._due[name]:
                        del self._due[name]
                        self._start(supervisor, name)
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

    def _look(self, supervisor: Supervisor) -> None:
        """Says when the server has taken this site, and when it has not for a while."""
        if not self._connected and CONNECTED in supervisor.words(NODE):
            self.say("connected; the server calls when there is something to do")
            self._connected = True
        elif not self._connected and not self._doubted and time.monotonic() - self._started[NODE] > DOUBT:
            self.say(
                f"no connection yet: does {self.server} answer, and has the authority in {self.authority} signed its "
                f"certificate? (see {self.folder / NODE}.log)"
            )
            self._doubted = True

    def _look_at_disk(self) -> None:
        """Says when the disk is full, and when it has room again: the worker's log may not be able to say so."""
        full = shutil.disk_usage(self.folder).free < ROOM
        if full and not self._full:
            self.say(
                f"warning: {self.folder}: {os.strerror(errno.ENOSPC)}; an update that cannot be written down here does "
                "not leave, so this site has none until there is room"
            )
        elif self._full and not full:
            self.say(f"there is room in {self.folder} again")
        self._full = full

    def _pause(self, supervisor: Supervisor, name: str, code: int) -> float:
        """Seconds until a process that has ended is started again; says so, and why it ended."""
        reason = why_ended(supervisor.words(name)) if name == NODE else None
        why = f": {REASONS[reason]}" if reason in REASONS else supervisor.last_words(name)
        if name == NODE and code == 0:
            why = f": {SILENT}"
        if reason in PERMANENT:
            raise RecipeError(f"Flower's SuperNode ended{why}", source="client")
        if time.monotonic() - self._started[name] > WELL:
            self._failures[name] = 0
        failures = self._failures.get(name, 0)
        self._failures[name] = failures + 1
        pause = PAUSES[min(failures, len(PAUSES) - 1)]
        self.say(f"the {name} ended with code {code} and starts again in {pause:g} seconds{why}")
        return pause


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
