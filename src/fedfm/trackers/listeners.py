"""The interface of objects that follow a run: displays, trackers, callbacks of the user."""

from __future__ import annotations

from typing import Any


class Listener:
    """Is called at each step of a run. The methods do nothing unless they are overridden."""

    def on_start(self, plan: dict[str, Any]) -> None:
        """Called before round 1, with the plan of the run."""

    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        """Called when a client has trained in the 1-based ``round``, as number ``done`` of ``total`` of its cohort."""

    def on_progress(self, stage: str, done: int, total: int | None) -> None:
        """Called during other work: reading data, making or aligning a proxy, evaluating.

        Args:
            stage: a name of the work.
            done: completed steps.
            total: number of steps; None where it is not known.
        """

    def on_round(self, record: dict[str, Any]) -> None:
        """Called after a round is saved; with ``checkpoint.every`` above 1, it may be saved at a later checkpoint.

        Args:
            record: ``round``, ``rounds``, ``loss`` (training), ``metrics`` (split → metric → value), ``clients``
                (``ok``, ``failed``, ``refused``), ``bytes`` (``up``, ``down``), ``seconds``, ``eta_seconds``.
        """

    def on_warning(self, text: str) -> None:
        """Called with a warning; the run continues."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """Called after the run; ``summary`` is the content of summary.json."""
