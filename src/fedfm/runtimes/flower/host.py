"""A server's side of a federation of machines: SuperLink, keys that may join, and the relay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from fedfm.errors import TooFewClientsError
from fedfm.runtimes.envelopes import Lost
from fedfm.runtimes.flower.control import Control
from fedfm.runtimes.flower.folder import hold
from fedfm.runtimes.flower.superlink import (
    DATABASE,
    RELAY,
    SUPEREXEC,
    SUPERLINK,
    environment,
    start_superexec,
    start_superlink,
    within,
)
from fedfm.runtimes.flower.supervisor import Supervisor
from fedfm.runtimes.line import Part
from fedfm.runtimes.relay import RelayLine, Wait

RESTARTS, RELAYS = 5, 20
"""Times that Flower's processes are restarted, and relays started, without an answer from a site in between."""


class HostLine(RelayLine):
    """A line to sites, each identified by its key; it begins when enough of them are there."""

    def __init__(
        self,
        folder: Path,
        *,
        tls: Path,
        port: int,
        keys: Mapping[str, Path],
        least: int,
        patience: float,
        deadline: float | None,
        heard: Callable[[Sequence[str]], None],
        waits: Callable[[Wait], None],
    ) -> None:
        """Starts what sites connect to.

        Args:
            folder: of Flower's files, for this user alone; it stays, so that sites find a server again that was killed.
            tls: folder of the server's certificates, as `start_superlink` has it.
            port: at which the SuperLink listens, on 127.0.0.1.
            keys: name of a site → its public key.
            least: sites without which no round is played.
            patience: seconds to wait for all of them before the first round, and for the least before others.
            deadline: seconds that sites have for a round; None: no limit.
            heard: gets the sites that are there whenever they have changed.
            waits: gets the sites that are waited for, and for how long.

        Raises:
            TooFewClientsError: a process that sites connect to ended or did not answer.
            RecipeError: another server uses the folder or the port.
            StorageError: the folder cannot be written.
        """
        with ExitStack() as undo:
            undo.callback(hold(folder).release)
            _forget_other_keys(folder, keys)
            self._supervisor = Supervisor(folder, environment(folder))
            undo.callback(self._supervisor.close)
            super().__init__(
                folder / RELAY,
                nodes=len(keys),
                patience=patience,
                deadline=deadline,
                check=self._restart,
                heard=heard,
            )
            undo.callback(super().close)
            self.folder, self.tls, self.port, self.keys = folder, tls, port, keys
            self._waits = waits
            self._least, self._restarts, self._relays = least, 0, 0
            self._run: int | None = None
            self._control = self._start()
            self.on_loss()
            self._held = undo.pop_all()

    def nodes(self, *, wait: bool = True) -> tuple[str, ...]:
        """The sites that are there; waits for all of them before the first round, later for the least number."""
        there = super().nodes(wait=wait)
        self.wanted = self._least
        return there

    def on_wait(self, wait: Wait) -> None:
        """As `RelayLine.on_wait`."""
        self._waits(wait)

    def pull(self, timeout: float | None = None) -> Part | None:
        """As `RelayLine.pull`."""
        part = super().pull(timeout)
        if part is not None and not isinstance(part.envelope.head, Lost):
            self._restarts = self._relays = 0
        return part

    def on_loss(self) -> None:
        """Starts a relay.

        Raises:
            TooFewClientsError: relays were lost `RELAYS` times in a row.
        """
        if self._relays == RELAYS:
            raise TooFewClientsError(f"the relay to the sites was lost {RELAYS} times; see {self.folder}")
        self._relays += 1
        with within(environment(self.folder)):
            if self._run is not None:
                self._control.stop(self._run)  # otherwise sites work on for it until Flower notices
            self._run = self._control.start()

    def close(self) -> None:
        """Ends the processes that sites connect to; the sites wait until they are there again."""
        self._held.close()

    def _start(self) -> Control:
        with within(environment(self.folder)):
            control = start_superlink(self._supervisor, self.folder, self.tls, self.port)
            self.names = control.admit(self.keys)
        return control

    def _restart(self) -> None:
        """Restarts processes that have ended; what the SuperLink knew of sites is in its database.

        The superexec ends, and the relay with it, when that database is busy for long.

        Raises:
            TooFewClientsError: they have ended `RESTARTS` times in a row.
        """
        ended = self._supervisor.ended()
        if not ended:
            return
        if self._restarts == RESTARTS:
            self._supervisor.check()
        self._restarts += 1
        if SUPERLINK in ended:
            for name in (SUPEREXEC, SUPERLINK):
                self._supervisor.kill(name)
            self._control = self._start()
        else:
            start_superexec(self._supervisor, self.folder, self.tls, self.port)


def _forget_other_keys(folder: Path, keys: Mapping[str, Path]) -> None:
    """Removes Flower's database when the admitted keys have changed: Flower never accepts a removed key again."""
    admitted = folder / "admitted"
    now = "".join(sorted(f"{name} {path.read_text().split()[1]}\n" for name, path in keys.items()))
    if not admitted.is_file() or admitted.read_text() != now:
        for database in folder.glob(f"{DATABASE}*"):
            database.unlink()
    admitted.write_text(now)
