"""The public functions `run` and `resume`, and the loop over rounds. Slow modules are imported by a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.records.folder import RunFolder
from fedfm.server.runs.finished import Run
from fedfm.server.runs.refusals import refuse_changes, refuse_unresumable, refuse_unrunnable
from fedfm.trackers.listeners import Listener

if TYPE_CHECKING:
    from fedfm.recipe import Recipe
    from fedfm.server.experiment.deployment import Deployment
    from fedfm.server.rounds.driver import Driver
    from fedfm.server.rounds.state import RunState


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
    listeners: Sequence[Listener] = (),
    profile: bool = False,
    deployment: Deployment | None = None,
    **methods: Any,
) -> Run:
    """Runs a recipe from its first round to its report.

    Args:
        recipe: a recipe, a mapping of its keys, a recipe file, or the name of a preset.
        overrides: ``dotted.key=value`` settings, as on the command line.
        data: replaces the data that the recipe names: ``{"train": …, "test": …}``, each a pandas DataFrame or a
            `datasets.Dataset`; see `load_recipe`.
        listeners: are called at each step; see `fedfm.Listener`.
        profile: record the time by phase (``profile.json``, and in the report).
        deployment: where the clients are; None: simulated, in the recipe's runtime. See `fedfm.Simulation`.
        methods: objects in place of the recipe's ``algorithm``, ``tune``, ``updates`` (a list), ``aggregate``, …; their
            classes may be your own. Runtimes on nodes need such a class to be installed, with an entry point.

    Raises:
        RecipeError: the recipe is not valid; nothing was written.
        DataError: a data file cannot be read; nothing was written.
        TooFewClientsError: a round had fewer sound updates than the quorum.
        StorageError: the disk is full or the folder is read-only; the last checkpoint is intact.
        InterruptedRunError: Ctrl-C was pressed; the run can be resumed.
    """
    if isinstance(recipe, str | Path):
        if not data:
            refuse_unrunnable(recipe, overrides)
        recipe = load_recipe(recipe, overrides, data=data, **methods)
    elif isinstance(recipe, Mapping):
        recipe = load_recipe(recipe, overrides, data=data, **methods)
    elif overrides or data or methods:
        recipe = load_recipe(recipe.model_dump(), overrides, data=data, **methods)
    if recipe.ask.questions is not None:
        raise RecipeError("it makes a recipe that asks and trains nothing: `fedfm ask` sets it", where="ask.questions")
    RunFolder.refuse_existing(recipe.folder)
    from fedfm.server.experiment.deployment import Simulation
    from fedfm.server.runs.start import started

    with started(recipe, deployment or Simulation(profile=profile), listeners) as session:
        session.finish(play_rounds(session.driver, session.begin()))
    return Run(recipe.folder)


def resume(
    folder: Path | str,
    overrides: Sequence[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
    listeners: Sequence[Listener] = (),
    deployment: Deployment | None = None,
    **methods: Any,
) -> Run:
    """Continues a run from its last checkpoint. On the same machine the result is that of an uninterrupted run.

    Args:
        folder: the run's folder.
        overrides: only ``federation.rounds`` and ``report_to`` may change.
        data: the data that was given to `run` from Python, if the cache has lost it; it must be the same.
        listeners: are called at each step.
        deployment: where the clients are, as for `run`.
        methods: the objects that `run` was given, where their classes are not installed; they must be the same.

    Raises:
        RecipeError: the folder is not that of a run, the run is finished, or recipe, data or model have changed; also
            as in `run`.
    """
    opened = RunFolder.open(folder)
    if methods:
        given = load_recipe(opened.recipe, **methods)
        refuse_changes(load_recipe(opened.recipe).model_dump(), given.model_dump())
    refuse_unresumable(opened, overrides)
    from fedfm.server.experiment.deployment import Simulation
    from fedfm.server.runs.start import continued

    with continued(opened, overrides, deployment or Simulation(), listeners, data) as session:
        session.finish(play_rounds(session.driver, session.begin()))
    return Run(opened.path)


def play_rounds(driver: Driver, state: RunState) -> RunState:
    """Plays rounds until the recipe's last, or until the validation metric has stopped improving.

    Args:
        driver: of the run; begins, records, evaluates and commits each round.
        state: to continue from.

    Raises:
        InterruptedRunError: the run was asked to stop; the state after the last whole round is saved.
        TooFewClientsError: a round had fewer sound updates than the quorum; the state before it is saved.
        StorageError: a checkpoint could not be written; the last one is intact.
    """
    with driver.playing(state):
        while not driver.is_over(state):
            exchange = driver.begin(state)
            state = driver.end(exchange, driver.protocol.step(exchange.state.protocol, exchange))
        return driver.refined(state)
