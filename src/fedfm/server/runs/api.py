"""What users call: `run` and `resume`. Quick to import: a call loads what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfm.recipe import load_recipe
from fedfm.records.folder import RunFolder
from fedfm.records.listeners import Listener
from fedfm.server.runs.finished import Run
from fedfm.server.runs.refusals import refuse_unresumable, refuse_unrunnable

if TYPE_CHECKING:
    from fedfm.recipe import Recipe


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
    listeners: Sequence[Listener] = (),
    profile: bool = False,
) -> Run:
    """Runs a recipe from its first round to its report.

    Args:
        recipe: a recipe, a mapping of its keys, a recipe file, or the name of a preset.
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
    elif isinstance(recipe, Mapping):
        recipe = load_recipe(recipe, overrides, data=data)
    elif overrides or data:
        recipe = load_recipe(recipe.model_dump(), overrides, data=data)
    RunFolder.refuse_existing(recipe.folder)
    from fedfm.server.runs.start import start_run
    from fedfm.server.experiment.deployment import Simulation

    return start_run(recipe, Simulation(profile=profile), listeners)


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
    from fedfm.server.runs.start import continue_run
    from fedfm.server.experiment.deployment import Simulation

    return continue_run(opened, overrides, Simulation(), listeners, data)
