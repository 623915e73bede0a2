"""A whole run: from a recipe to a folder, and from an interrupted folder on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from fedfm.clients import spread
from fedfm.errors import InterruptedRunError, RecipeError, StorageError, TooFewClientsError
from fedfm.recipe import Recipe, dump, load_recipe
from fedfm.records import jsonl
from fedfm.records.environment import environment
from fedfm.records.folder import RunFolder
from fedfm.records.listeners import Listener
from fedfm.records.report import write_report
from fedfm.records.tensorboard import TensorBoard
from fedfm.runtimes import LocalRuntime
from fedfm.server.baselines import baselines
from fedfm.server.checkpoints import load_checkpoint
from fedfm.server.experiment import Experiment, build_experiment
from fedfm.server.interrupts import stop_on_signals
from fedfm.server.outcome import load_tuned, write_outcome
from fedfm.server.planning import describe
from fedfm.server.rounds import RoundLoop
from fedfm.server.state import RunState
from fedfm.server.summary import Status, summarize

RESUMABLE = ("federation.rounds", "report_to")
"""The only keys that `resume` may change; any other would make it a different run."""


class Run:
    """A run's folder, to read.

    Example:
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
        summary: dict[str, Any] = jsonl.read(self.folder.summary)
        return summary

    @property
    def metrics(self) -> pd.DataFrame:
        """Loss and metrics, a row for each round and split."""
        return pd.DataFrame(list(jsonl.records(self.folder.metrics)))

    @property
    def events(self) -> list[dict[str, Any]]:
        """What did not go as planned: refused updates, failures, resumes."""
        return list(jsonl.records(self.folder.events))

    @cached_property
    def model(self) -> nn.Module:
        """The backbone with what was tuned, on the CPU, ready for inference."""
        return load_tuned(self.folder, self.recipe)[0].model

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def run(recipe: Recipe | str | Path, overrides: Sequence[str] = (), *, listeners: Sequence[Listener] = ()) -> Run:
    """Runs a recipe from its first round to its report.

    Args:
        recipe: a recipe, a recipe file, or the name of a preset.
        overrides: ``dotted.key=value`` settings, as on the command line.
        listeners: hear of every step; see `fedfm.Listener`.

    Raises:
        RecipeError: something in the recipe does not fit; nothing was written.
        DataError: a data file cannot be read; nothing was written.
        TooFewClientsError: a round had fewer sound updates than the quorum.
        StorageError: the disk is full or the folder read-only; the last checkpoint is intact.
        InterruptedRunError: Ctrl-C; the run can be resumed.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        recipe = load_recipe(recipe.model_dump(), overrides)
    RunFolder.refuse_existing(recipe.folder)
    experiment = build_experiment(recipe)
    folder = RunFolder.create(recipe.folder)
    with folder.lock():
        folder.write_text(folder.recipe, dump(experiment.recipe))
        folder.write_json(folder.environment, environment())
        folder.write_json(
            folder.clients, experiment.data.federation.table(experiment.data.train, experiment.data.labels)
        )
        _play(experiment, folder, listeners, None)
    return Run(folder.path)


def resume(folder: Path | str, overrides: Sequence[str] = (), *, listeners: Sequence[Listener] = ()) -> Run:
    """Continues a run from its last checkpoint; the outcome is that of a run never interrupted, bit for bit.

    Args:
        folder: the run's folder.
        overrides: only ``federation.rounds`` and ``report_to`` may change.
        listeners: hear of every step.

    Raises:
        RecipeError: no run's folder, or a key was changed that would make it another run; also as `run`.
    """
    opened = RunFolder.open(folder)
    before = load_recipe(opened.recipe)
    recipe = load_recipe(opened.recipe, overrides)
    _refuse_changes(before, recipe)
    with opened.lock():
        saved = load_checkpoint(opened.path)
        experiment = build_experiment(recipe)
        if recipe != before:
            opened.write_text(opened.recipe, dump(recipe))
        opened.truncate(saved[1] if saved else {})
        for text in saved[2] if saved else []:
            for listener in listeners:
                listener.on_warning(text)
        state = saved[0] if saved else None
        opened.append(
            opened.events, {"round": state.round if state else 0, "kind": "resume", "client": None, "reason": ""}
        )
        _play(experiment, opened, listeners, state)
    return Run(opened.path)


def _play(experiment: Experiment, folder: RunFolder, listeners: Sequence[Listener], state: RunState | None) -> None:
    listeners = [*listeners, *([TensorBoard(folder.path)] if "tensorboard" in experiment.recipe.report_to else [])]
    for listener in listeners:
        listener.on_start(describe(experiment))
    with stop_on_signals() as stop:
        loop = RoundLoop(experiment, LocalRuntime(experiment.worker), folder, listeners, stop)
        try:
            state = loop.start() if state is None else state
            state = loop.play(state)
        except (InterruptedRunError, TooFewClientsError) as error:
            saved = load_checkpoint(folder.path)
            if saved is not None:
                status: Status = "interrupted" if isinstance(error, InterruptedRunError) else "failed"
                folder.write_json(folder.summary, summarize(experiment, saved[0], status, {}, None))
            raise type(error)(f"{error}\nresume it with: fedfm resume {folder.path}") from error
        except StorageError as error:
            raise StorageError(
                f"{error}\nthe last checkpoint is intact; make room or mend the permissions, "
                f"then: fedfm resume {folder.path}"
            ) from error
    _finish(experiment, folder, listeners, state)


def _finish(experiment: Experiment, folder: RunFolder, listeners: Sequence[Listener], state: RunState) -> None:
    """Per-client evaluation, baselines, artefacts, summary, report: everything after the last round."""
    if state.best is not None and state.best_params:
        experiment.tunable.write(state.best_params)
        scores = experiment.evaluator(experiment.data.test)
        state = replace(state, params=state.best_params, latest={**state.latest, "test": scores})
    compared = baselines(experiment, state)
    experiment.tunable.write(state.params)
    per_client = _evaluate_clients(experiment, folder, state)
    summary = summarize(experiment, state, "completed", compared, per_client)
    write_outcome(folder, experiment.tunable, experiment.backbone, experiment.recipe, summary, merge=False)
    folder.write_json(folder.summary, summary)
    write_report(folder.path)
    for listener in listeners:
        listener.on_end(summary)


def _evaluate_clients(experiment: Experiment, folder: RunFolder, state: RunState) -> dict[str, Any] | None:
    examples, sets = experiment.data.client_test_sets()
    if not sets:
        return None
    scores = experiment.evaluator.by_client(examples, sets)
    for client, values in scores.items():
        line = {"round": state.round, "split": "client", "client": client, **values, "examples": len(sets[client])}
        folder.append(folder.metrics, line)
    metric = experiment.evaluator.metrics[0]
    return {
        "metric": metric,
        "clients": len(sets),
        **spread(
            [values[metric] for values in scores.values()],
            higher_is_better=experiment.data.task.metrics[metric],
        ),
    }


def _refuse_changes(before: Recipe, after: Recipe) -> None:
    """A resumed run must be the same run."""
    old, new = _flat(before.model_dump()), _flat(after.model_dump())
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key) and key not in RESUMABLE]
    if changed:
        raise RecipeError(
            "a resumed run may only change "
            + " and ".join(RESUMABLE)
            + "; "
            + ", ".join(f"{key}: {old.get(key)} → {new.get(key)}" for key in changed)
            + " would make it another run: start a new one",
            where=changed[0],
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
