"""What users call: `run`, `resume`, and a run's folder to read. Quick to import: a call loads what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.records.listeners import Listener
from fedfm.server.refusals import refuse_unresumable, refuse_unrunnable

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from fedfm.recipe import Recipe


class Run:
    """A run's folder, to read.

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
            RecipeError: the run has not got that far.
        """
        if not self.folder.summary.is_file():
            raise RecipeError(
                f"{self.path} has no summary yet; continue it with `fedfm resume {self.path}`", source="run"
            )
        summary: dict[str, Any] = jsonl.read(self.folder.summary, shapes.SUMMARY)
        return summary

    @property
    def metrics(self) -> pd.DataFrame:
        """Loss and metrics, a row for each round and split."""
        import pandas as pd

        return pd.DataFrame(list(jsonl.records(self.folder.metrics, shapes.METRICS)))

    @property
    def events(self) -> list[dict[str, Any]]:
        """What did not go as planned: refused updates, failures, resumes."""
        return list(jsonl.records(self.folder.events, shapes.EVENT))

    @cached_property
    def model(self) -> nn.Module:
        """The backbone with what was tuned, on the CPU, ready for inference."""
        from fedfm.server.outcome import load_tuned

        return load_tuned(self.folder, self.recipe)[0].model

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def run(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
    listeners: Sequence[Listener] = (),
    profile: bool = False,
) -> Run:
    """Runs a recipe from its first round to its report.

    Args:
        recipe: a recipe, a recipe file, or the name of a preset.
        overrides: ``dotted.key=value`` settings, as on the command line.
        data: in place of the data that the recipe names: ``{"train": …, "test": …}``, each a pandas DataFrame or a
            `datasets.Dataset`; see `load_recipe`.
        listeners: hear of every step; see `fedfm.Listener`.
        profile: write down where the time went (``profile.json``, and in the report).

    Raises:
        RecipeError: something in the recipe does not fit; nothing was written.
        DataError: a data file cannot be read; nothing was written.
        TooFewClientsError: a round had fewer sound updates than the quorum.
        StorageError: the disk is full or the folder read-only; the last checkpoint is intact.
        InterruptedRunError: Ctrl-C; the run can be resumed.
    """
    if isinstance(recipe, str | Path):
        if not data:
            refuse_unrunnable(recipe, overrides)
        recipe = load_recipe(recipe, overrides, data=data)
    elif overrides or data:
        recipe = load_recipe(recipe.model_dump(), overrides, data=data)
    RunFolder.refuse_existing(recipe.folder)
    from fedfm.server.runs import start_run
    from fedfm.server.venues import Here

    return start_run(recipe, Here(profile=profile), listeners)


def resume(
    folder: Path | str,
    overrides: Sequence[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
    listeners: Sequence[Listener] = (),
) -> Run:
    """Continues a run from its last checkpoint; on the same machine the outcome is that of a run never interrupted.

    Args:
        folder: the run's folder.
        overrides: only ``federation.rounds`` and ``report_to`` may change.
        data: the data that `run` was given from Python, where the cache has lost it since; it must be the same.
        listeners: hear of every step.

    Raises:
        RecipeError: no run's folder, a run that is finished, or recipe, data or model are not those of the run any
            more; also as `run`.
    """
    opened = RunFolder.open(folder)
    refuse_unresumable(opened, overrides)
    from fedfm.server.runs import continue_run
    from fedfm.server.venues import Here

    return continue_run(opened, overrides, Here(), listeners, data)
