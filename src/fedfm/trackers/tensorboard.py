"""Scalars for TensorBoard, written during a run; needs the extra ``track``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedfm.errors import RecipeError
from fedfm.extras import how_to_install
from fedfm.trackers.listeners import Listener


class TensorBoard(Listener):
    """Writes ``METRIC/SPLIT``, ``clients/…`` and ``bytes/…`` of every round to RUN/tensorboard."""

    def __init__(self, run: Path) -> None:
        """Imports TensorBoard. Nothing is written before the first round.

        Args:
            run: the run's folder.

        Raises:
            RecipeError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RecipeError(f"tensorboard is not installed; {how_to_install('track')}", where="report_to") from error
        self._open = SummaryWriter
        self._folder = run / "tensorboard"
        self._writer: SummaryWriter | None = None

    def on_round(self, record: dict[str, Any]) -> None:
        """Adds one point to each curve."""
        step = record["round"]
        if self._writer is None:  # removes rounds that an interrupted run had logged and that are played again
            self._writer = self._open(str(self._folder), purge_step=step)
        scalars = {"loss/train": record["loss"]}
        for split, metrics in record["metrics"].items():
            scalars |= {f"{metric}/{split}": value for metric, value in metrics.items()}
        for group in ("clients", "bytes"):
            scalars |= {f"{group}/{key}": value for key, value in record[group].items()}
        for tag, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(tag, value, global_step=step)
        self._writer.flush()

    def on_end(self, summary: dict[str, Any]) -> None:
        """Closes the log."""
        if self._writer is not None:
            self._writer.close()
