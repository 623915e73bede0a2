"""A server's side of a federation of machines: SuperLink, keys that may join, and the relay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedfm.runtimes.flower.superlink import environment, start_superlink, within
from fedfm.runtimes.flower.supervisor import Supervisor
from fedfm.runtimes.relay import RelayLine


class HostLine(RelayLine):
    """A line to sites, each known by its key; it begins when enough of them are there."""

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
    ) -> None:
        """Starts what sites connect to.

        Args:
            folder: of what Flower keeps, this user's alone; kept, so that sites find a server again that was killed.
            tls: folder of the server's certificates, as `start_superlink` has it.
            port: that the SuperLink listens at, on 127.0.0.1.
            keys: name of a site → its public key.
            least: sites without which no round is played.
            patience: seconds to wait for all of them before the first round, and for the least before others.
            deadline: seconds that sites have for a round; None: any.
            heard: is told of the sites that are there whenever they have changed.

        Raises:
            TooFewClientsError: what sites connect to ended or did not answer.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._supervisor = Supervisor(folder, environment(folder))
        super().__init__(
            folder / "relay.sock",
            nodes=len(keys),
            patience=patience,
            deadline=deadline,
            check=self._supervisor.check,
            heard=heard,
        )
        self._least = least
        try:
            with within(environment(folder)):
                control = start_superlink(self._supervisor, folder, tls, port)
                self.names = control.admit(keys)
                control.start(self.path)
        except BaseException:
            self.close()
            raise

    def nodes(self) -> tuple[str, ...]:
        """The sites that are there: as `RelayLine.nodes`, first all that may be, later the least that must."""
        there = super().nodes()
        self.wanted = self._least
        return there

    def close(self) -> None:
        """Ends what sites connect to; they wait until it is there again."""
        super().close()
        self._supervisor.close()
