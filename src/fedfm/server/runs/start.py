"""The session of a run: opened for a recipe or for a folder, and what happens before and after its rounds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.clients import spread, use_threads
from fedfm.errors import InterruptedRunError, RecipeError, StorageError, TooFewClientsError, TripwireError
from fedfm.models.identity import PARTS
from fedfm.private import private
from fedfm.progress import Heard, heard_by
from fedfm.proxies.base import ModelVersion
from fedfm.recipe import Recipe, dump, load_recipe
from fedfm.records import contributions, jsonl, plug_in, shapes
from fedfm.records.client_scores import score_totals
from fedfm.records.costs import cost_totals
from fedfm.records.environment import environment
from fedfm.records.folder import RunFolder
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.envelopes import RunStatus
from fedfm.server.experiment.build import Experiment
from fedfm.server.experiment.deployment import Deployment, RealSites, Simulation
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.rounds.driver import Driver
from fedfm.server.rounds.example_guard import guard_of
from fedfm.server.rounds.interrupts import StopRequest, stop_on_signals
from fedfm.server.rounds.state import RunState
from fedfm.server.runs.artifacts import Tuned, delivered_params, write_client_adapters, write_experts, write_outcome
from fedfm.server.runs.baselines import baselines
from fedfm.server.runs.by_client import figures_by_client, matrix, matrix_summary
from fedfm.server.runs.client_groups import client_groups, measure_clients, measure_unseen
from fedfm.server.runs.inference import evaluation
from fedfm.server.runs.own_models import own_models
from fedfm.server.runs.planning import describe
from fedfm.server.runs.profiling import profile_of
from fedfm.server.runs.refusals import is_finished, refuse_changes
from fedfm.server.runs.samples import samples, write_before
from fedfm.server.runs.summary import proxy_figures, summarize
from fedfm.server.runs.synthetic import write_synthetic
from fedfm.trackers.listeners import Listener
from fedfm.trackers.tensorboard import TensorBoard


@contextmanager
def started(recipe: Recipe, deployment: Deployment, listeners: Sequence[Listener]) -> Iterator[Session]:
    """A session for a new run, in a folder of its own; raises as `fedfm.run`."""
    with private(), heard_by(_all_hear(listeners)):
        experiment = deployment.build(recipe)
        listeners = [*listeners, *_trackers(recipe, recipe.folder)]
        with closing(deployment.reach(experiment)) as runtime:
            folder = RunFolder.create(recipe.folder)
            with folder.lock():
                folder.write_text(folder.recipe, dump(experiment.recipe))
                with _session(experiment, deployment, runtime, folder, listeners) as session:
                    yield session


@contextmanager
def continued(
    opened: RunFolder,
    overrides: Sequence[str],
    deployment: Deployment,
    listeners: Sequence[Listener],
    data: Mapping[str, Any] | None = None,
) -> Iterator[Session]:
    """A session for a run that is not finished, in its folder; raises as `fedfm.resume`."""
    with private(), heard_by(_all_hear(listeners)):
        before = load_recipe(opened.recipe)
        recipe = load_recipe(opened.recipe, overrides, data=data)
        refuse_changes(before.model_dump(), recipe.model_dump())
        listeners = [*listeners, *_trackers(recipe, opened.path)]
        with opened.lock():
            experiment = _reopen(opened, before, recipe, deployment, listeners)
            with (
                closing(deployment.reach(experiment)) as runtime,
                _session(experiment, deployment, runtime, opened, listeners) as session,
            ):
                yield session


def _all_hear(listeners: Sequence[Listener]) -> Heard:
    """Tells all listeners how far long work is."""

    def tell(stage: str, done: int, total: int | None) -> None:
        for listener in listeners:
            listener.on_progress(stage, done, total)

    return tell


def _reopen(
    opened: RunFolder, before: Recipe, recipe: Recipe, deployment: Deployment, listeners: Sequence[Listener]
) -> Experiment:
    """The experiment of a run that goes on, whose folder is as it was after the last whole round."""
    saved = load_checkpoint(opened)
    if saved is not None and recipe.federation.rounds < saved.state.round:
        raise RecipeError(
            f"{saved.state.round} rounds are played already, so {recipe.federation.rounds} cannot be all",
            where="federation.rounds",
        )
    kept = saved.state.versions.keys() if saved is not None else ()
    if isinstance(deployment, RealSites) and not set(deployment.names).isdisjoint(kept) and is_finished(opened):
        raise RecipeError(
            f"{opened.path} is finished, and its sites have removed what their clients kept between rounds: more "
            "rounds cannot be played; start a new run with a larger federation.rounds",
            source="run",
        )
    experiment = deployment.build(recipe)
    if saved is not None:
        _refuse_another_run(saved.identity, experiment.identity)
    if recipe != before:
        opened.write_text(opened.recipe, dump(recipe))
    opened.truncate(saved.offsets if saved else {})
    opened.summary.unlink(missing_ok=True)
    for stale in (opened.profile, opened.audit):  # of the run as it was
        stale.unlink(missing_ok=True)
    warnings = [*(saved.warnings if saved else ()), *_changed_versions(opened)]
    for text in warnings:
        for listener in listeners:
            listener.on_warning(text)
    number = saved.state.round if saved else 0
    opened.append(opened.events, {"round": number, "kind": "resume", "client": None, "reason": "; ".join(warnings)})
    return experiment


@dataclass(frozen=True)
class Session:
    """One process's part of a run, from the run's last checkpoint on.

    Attributes:
        experiment: the run.
        deployment: of its clients.
        folder: of the run.
        listeners: follow it.
        stop: ends it.
        driver: plays its rounds.
    """

    experiment: Experiment
    deployment: Deployment
    folder: RunFolder
    listeners: Sequence[Listener]
    stop: StopRequest
    driver: Driver

    def begin(self) -> RunState:
        """The state of the last checkpoint, or before round 1; the caller is the only one to hold it."""
        saved = load_checkpoint(self.folder)
        state = self.driver.start() if saved is None else saved.state
        _write_proxy(self.experiment, self.folder, state)
        return state

    def finish(self, state: RunState) -> None:
        """Everything after the last round."""
        clients = self.deployment.informed(self.experiment).data.table()  # with those that came later
        self.folder.write_json(self.folder.clients, clients)
        _finish(self.experiment, self.folder, self.listeners, state, self.stop, self.driver)


@contextmanager
def _session(
    experiment: Experiment,
    deployment: Deployment,
    runtime: Runtime,
    folder: RunFolder,
    listeners: Sequence[Listener],
) -> Iterator[Session]:
    """What a run is played in; its end is recorded in the folder and reported to the clients."""
    experiment = deployment.informed(experiment)
    folder.write_json(folder.environment, environment())
    folder.write_json(folder.clients, experiment.data.table())
    folder.events.touch()
    with stop_on_signals() as stop, use_threads(experiment.recipe.runtime.resolved_threads):
        try:
            driver = Driver(experiment, runtime, folder, listeners, stop)
            for listener in listeners:
                listener.on_start(describe(experiment, driver.guard.promise))
            runtime.attend(lambda: stop.check("while clients were waited for"))
            yield Session(experiment, deployment, folder, listeners, stop, driver)
        except (InterruptedRunError, KeyboardInterrupt) as error:
            where = str(error) if isinstance(error, InterruptedRunError) else "stopped at once"
            number = _write_unfinished(experiment, folder, "interrupted")
            folder.append(folder.events, {"round": number, "kind": "interrupted", "client": None, "reason": where})
            _say_ended(runtime, folder, experiment, "interrupted")
            raise InterruptedRunError(f"{where}\nresume it with: {folder.again}") from error
        except TooFewClientsError as error:
            _write_unfinished(experiment, folder, "failed")
            _say_ended(runtime, folder, experiment, "failed")
            remedy = f"once the clients have recovered: {folder.again}"
            if error.repeats and isinstance(deployment, Simulation):
                remedy = "resuming would repeat it: fix the causes above and start a new run"
            raise TooFewClientsError(f"{error}\n{remedy}", repeats=error.repeats) from error
        except TripwireError:
            _write_unfinished(experiment, folder, "failed")
            _say_ended(runtime, folder, experiment, "failed")
            raise
        except StorageError as error:
            raise StorageError(
                f"{error}\nthe last checkpoint is intact; free disk space or fix the permissions, then: {folder.again}"
            ) from error
        else:
            _say_ended(runtime, folder, experiment, "completed")


def _finish(
    experiment: Experiment,
    folder: RunFolder,
    listeners: Sequence[Listener],
    state: RunState,
    stop: StopRequest,
    driver: Driver,
) -> None:
    """Per-client evaluation, baselines, artefacts, summary, report: everything after the last round."""
    from fedfm.report.page import write_report  # matplotlib, which only the page needs

    stop.check("after the last round")
    writes = bool(experiment.recipe.evaluate.generate.examples)
    with experiment.client_model.pretrained(state.proxy):
        driver.tripwires.finished(state.round)
        before = write_before(experiment) if writes else []
        experiment.plug_in(experiment.start)
        measure_unseen(experiment, folder, 0, stop)
    compared = baselines(experiment, state)
    stop.check("after the baselines")
    write_client_adapters(folder, experiment, state)
    models = own_models(folder, experiment, state, stop)
    write_experts(folder, experiment, state)
    pairs = matrix(experiment, folder, state, stop)
    write_synthetic(folder, experiment, state)
    if state.refined is not None and state.refined.params:
        experiment.tunable.write(state.refined.params)
    else:
        experiment.plug_in(delivered_params(folder, experiment.contract, experiment.recipe, state))
    measure_unseen(experiment, folder, state.delivered().round, stop)
    per_client = _spread_over_clients(experiment, folder, state, stop)
    by_client = figures_by_client(experiment, folder, state, compared.by_client, stop)
    _write_proxy(experiment, folder, state)
    summary = summarize(
        experiment,
        state,
        "budget" if driver.has_spent_its_budget(state) else "completed",
        compared.headline,
        per_client,
        proxy_figures(experiment, state),
        cost_totals(folder.costs),
        driver.guard.figures(),
        score_totals(folder.metrics),
        models,
    )
    summary["client_groups"] = client_groups(experiment, folder, state)
    summary |= {"clients_compared": by_client, "matrix": None if pairs is None else matrix_summary(pairs)}
    tuned = Tuned(experiment.client_model, experiment.backbone, state.proxy or ModelVersion())
    target = write_outcome(folder, tuned, experiment.recipe, summary, merge=False)
    driver.tripwires.written(state.round, target, summary)
    folder.write_json(folder.evaluation, evaluation(experiment))
    if pairs is not None:
        folder.write_json(folder.matrix, pairs)
    if writes:
        folder.write_json(folder.samples, samples(experiment, before))
    if target == folder.adapter:
        shutil.rmtree(folder.model, ignore_errors=True)  # merged from an earlier round, if it is there
    folder.write_json(folder.summary, summary)
    if experiment.worker is not None and experiment.worker.profile is not None:
        folder.write_json(folder.profile, profile_of(experiment, state))
    write_report(folder.path)
    warnings = [text for text in (contributions.warning(summary), plug_in.warning(summary)) if text is not None]
    for listener in listeners:
        for text in warnings:
            listener.on_warning(text)
        listener.on_end(summary)


def _write_proxy(experiment: Experiment, folder: RunFolder, state: RunState) -> None:
    """``proxy/`` as it is at the latest version."""
    model = experiment.client_model
    if state.proxy is not None and model.is_sent:
        model.load(state.proxy)
        with folder.replacing(folder.proxy) as beside:
            model.save(beside, state.proxy)


def _write_unfinished(experiment: Experiment, folder: RunFolder, status: RunStatus) -> int:
    """The summary of a run as of its last checkpoint; the round of that."""
    saved = load_checkpoint(folder)
    if saved is None:
        return 0
    _write_proxy(experiment, folder, saved.state)
    privacy, costs = guard_of(experiment, folder).figures(), cost_totals(folder.costs)
    scores = score_totals(folder.metrics)
    summary = summarize(experiment, saved.state, status, {}, None, None, costs, privacy, scores)
    folder.write_json(folder.summary, summary)
    return saved.state.round


def _say_ended(runtime: Runtime, folder: RunFolder, experiment: Experiment, status: RunStatus) -> None:
    """Tells sites how the run ended."""
    rounds = jsonl.read(folder.summary)["rounds"] if folder.summary.is_file() else 0
    runtime.say_ended(experiment.recipe.name, status, rounds)


def _trackers(recipe: Recipe, folder: Path) -> list[Listener]:
    return [TensorBoard(folder)] if "tensorboard" in recipe.report_to else []


def _spread_over_clients(
    experiment: Experiment, folder: RunFolder, state: RunState, stop: StopRequest
) -> dict[str, Any] | None:
    """How evenly clients are served, by their own figures or by those that the server measures; None without any."""
    metric, number = experiment.evaluator.metrics[0], state.delivered().evaluated
    if experiment.recipe.evaluate.at == "server":
        sets = experiment.data.client_test_sets()
        scores = measure_clients(experiment, folder, "client", state.delivered().round, sets, stop)
        values = [found[metric] for found in scores.values()]
    else:
        lines = jsonl.records(folder.metrics, shapes.METRICS)
        own = [line for line in lines if line["split"] == "client" and line["round"] == number]
        values = [line[metric] for line in own if metric in line]
    if not values:
        return None
    better = experiment.data.task.metrics[metric]
    return {"metric": metric, "clients": len(values), **spread(values, higher_is_better=better)}


def _refuse_another_run(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """A resumed run must have the recipe, the data and the model that it began with."""
    changed = sorted(key for key in before.keys() | now.keys() if now.get(key) != before.get(key))
    if not changed:
        return
    meaning = {
        "recipe": "recipe.yaml was edited since",
        "tunable": "the model, or how its trained parameters are drawn, has changed",
        **{f"model.{part}": f"the model has other {words}" for part, words in PARTS.items()},
    }
    reasons = "; ".join(meaning.get(key, f"the content of {key} has changed") for key in changed)
    raise RecipeError(f"this is not the run that was begun: {reasons}. Put it back, or start a new run", source="run")


def _changed_versions(folder: RunFolder) -> list[str]:
    """Packages that have other versions than before: the outcome may then differ in the last bits."""
    if not folder.environment.is_file():
        return []
    before, now = jsonl.read(folder.environment, shapes.ENVIRONMENT)["versions"], environment()["versions"]
    changed = [f"{name} {before.get(name)} → {now.get(name)}" for name in now if before.get(name) != now.get(name)]
    return [f"the run goes on with other versions: {', '.join(changed)}"] if changed else []
