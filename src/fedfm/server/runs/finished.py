"""Read access to a run's folder. Slow modules are imported on first use."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from fedfm.recipe import Recipe
    from fedfm.server.rounds.state import RunState


class Run:
    """Read access to a run's folder.

    Examples:
        >>> from fedfm import Recipe, run
        >>> finished = run("quick")                                     # doctest: +SKIP
        >>> finished.summary["final"]["accuracy"]                       # doctest: +SKIP
        >>> finished.metrics.query("split == 'test'").plot("round", "accuracy")  # doctest: +SKIP
        >>> finished.model                                              # doctest: +SKIP
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = RunFolder.open(folder)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return load_recipe(self.folder.recipe)

    @property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``.

        Raises:
            RecipeError: the run has not written it yet.
        """
        if not self.folder.summary.is_file():
            raise RecipeError(
                f"{self.path} has no summary yet; continue the run with `{self.folder.again}`", source="run"
            )
        summary: dict[str, Any] = jsonl.read(self.folder.summary, shapes.SUMMARY)
        return summary

    @property
    def metrics(self) -> pd.DataFrame:
        """Loss and metrics, one row for each round and split."""
        import pandas as pd

        return pd.DataFrame(list(jsonl.records(self.folder.metrics, shapes.METRICS)))

    @property
    def costs(self) -> pd.DataFrame:
        """What each client sent, computed and needed, one row for each client and round."""
        import pandas as pd

        return pd.DataFrame(list(jsonl.records(self.folder.costs, shapes.COSTS)))

    @property
    def events(self) -> list[dict[str, Any]]:
        """Irregular events: refused updates, failures, resumes."""
        return list(jsonl.records(self.folder.events, shapes.EVENT))

    @property
    def state(self) -> RunState:
        """The state of the run in its last checkpoint: the tunable, the algorithm's tensors, counts.

        Raises:
            RecipeError: the run has no checkpoint.
            StorageError: every checkpoint is damaged.
        """
        from fedfm.server.rounds.checkpoints import load_checkpoint

        saved = load_checkpoint(self.folder)
        if saved is None:
            raise RecipeError(f"{self.path} has no checkpoint; start a new run", source="run")
        return saved.state

    @cached_property
    def model(self) -> nn.Module:
        """The backbone with the tuned parameters, on the CPU, ready for inference."""
        from fedfm.server.runs.artifacts import load_tuned

        return load_tuned(self.folder, self.recipe).model.tunable.model

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"
