"""What can follow a run while it happens: displays, trackers, the user's own callbacks."""

from __future__ import annotations

from typing import Any


class Listener:
    """Hears of a run's steps; every method does nothing until overridden."""

    def on_start(self, plan: dict[str, Any]) -> None:
        """Before round 1: what is going to happen."""

    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        """A client of 1-based ``round`` has trained; ``done`` of ``total`` of its cohort are through."""

    def on_progress(self, stage: str, done: int, total: int | None) -> None:
        """Work beside the clients' is going on: reading data, making or aligning a proxy, evaluating.

        Args:
            stage: what it is, in words.
            done: its steps that are through.
            total: how many there are, None where that is not known.
        """

    def on_round(self, record: dict[str, Any]) -> None:
        """A round is over; it is saved by now, or with ``checkpoint.every`` above 1 at the next checkpoint.

        Args:
            record: ``round``, ``rounds``, ``loss`` (training), ``metrics`` (split → metric → value), ``clients``
                (``ok``, ``failed``, ``refused``), ``bytes`` (``up``, ``down``), ``seconds``, ``eta_seconds``.
        """

    def on_warning(self, text: str) -> None:
        """Something that the user should know and that does not stop the run."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """The run is over; ``summary`` is the content of summary.json."""
