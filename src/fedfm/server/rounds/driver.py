"""The driver: begins and ends a protocol's rounds; evaluates, records, commits and stops. It knows no protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fedfm.clients.store import ClientStore
from fedfm.errors import InterruptedRunError, RecipeError, TooFewClientsError, TripwireError
from fedfm.params import Params, is_finite
from fedfm.protocols import Protocol, State
from fedfm.records.folder import RunFolder
from fedfm.records.forgetting import SPLIT
from fedfm.runtimes.base import Runtime
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.arrivals import arrivals_after
from fedfm.server.rounds.checkpoints import oldest_versions, save_checkpoint
from fedfm.server.rounds.client_evaluation import ClientFigures, mean_over_clients, measure_at_clients
from fedfm.server.rounds.client_models import ClientModels, kept_here
from fedfm.server.rounds.comings import comings
from fedfm.server.rounds.costs import CostBook
from fedfm.server.rounds.example_guard import guard_of
from fedfm.server.rounds.exchange import Exchange
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.messages import Outbox
from fedfm.server.rounds.participation import after_round
from fedfm.server.rounds.pending import Pending
from fedfm.server.rounds.round_records import Records, Stopwatch
from fedfm.server.rounds.state import Best, Refined, RunState
from fedfm.server.rounds.task_scores import measure_tasks
from fedfm.server.rounds.totals import Totals
from fedfm.server.tripwires import Tripwires
from fedfm.trackers.listeners import Listener

Scores = dict[str, dict[str, float]]
"""Split → loss and metrics."""


class Driver:
    """Begins and ends the rounds of one run. A round's state, records and checkpoint appear together or not at all."""

    def __init__(
        self,
        experiment: Experiment,
        runtime: Runtime,
        folder: RunFolder,
        listeners: Sequence[Listener],
        stop: StopRequest,
    ) -> None:
        """A driver.

        Args:
            experiment: the run.
            runtime: carries messages.
            folder: of the run.
            listeners: follow the run.
            stop: ends the run.
        """
        self.experiment = experiment
        self.recipe = experiment.recipe
        self.runtime = runtime
        self.folder = folder
        self.listeners = listeners
        self.stop = stop
        self.store = ClientStore(folder.client_state)
        self.outbox = Outbox(runtime, experiment.client_model, experiment.contract, oldest_versions(folder))
        self.costs = CostBook(experiment)
        self.tripwires = Tripwires(experiment, folder, listeners)
        self.guard = guard_of(experiment, folder)
        self._pending = Pending(runtime)
        self._latest, self._saved = RunState(State(0, {}, {})), 0

    def start(self) -> RunState:
        """The state before round 1: the tunable as initialised, evaluated and saved."""
        params, model = self.experiment.start, self.experiment.client_model
        records = Records(self.folder, 0, Stopwatch({}))
        proxy = model.prepare(params, self._report(0, records))
        state = RunState(self.recipe.protocol.start(params, self.recipe.algorithm), proxy=proxy)
        state, scores = self._evaluate(state, records)
        if (its_own := self.experiment.evaluate_client_model(params)) is not None:
            scores["proxy"] = its_own
            records.watch.lap("evaluate")
        state = replace(state, initial=scores, latest=scores, seconds=records.watch.seconds)
        records.costs += self.costs.lines(records)
        records.write()
        self.tripwires.begun()
        self._commit(state)
        return state

    @contextmanager
    def playing(self, state: RunState) -> Iterator[None]:
        """Where rounds after a state are played; a run that stops in it keeps its last whole round.

        Answers that an asynchronous run had got after ``state``, before it was interrupted, count in their old order.
        """
        self.guard.check(state.round, state.contributions)
        self._latest, self._saved = state, state.round
        self._pending = Pending(self.runtime, deque(arrivals_after(self.folder, state.round)))
        if state.proxy is not None:
            self.experiment.client_model.load(state.proxy)
            self.runtime.share(sorted(state.holders), state.proxy)
        try:
            yield
        except (InterruptedRunError, TooFewClientsError, TripwireError):
            if self._saved != self._latest.round:
                self._commit(self._latest)
            raise

    @property
    def protocol(self) -> Protocol:
        """The recipe's protocol."""
        return self.recipe.protocol

    def refined(self, state: RunState) -> RunState:
        """The state after the last round, with what becomes of the plug-in once training is over."""
        model = self.experiment.client_model
        public = self.experiment.data.plug_in_public
        if not model.refines or public is None or state.proxy is None or state.refined is not None:
            return state
        self.stop.check("after the last round")
        records = Records(self.folder, state.round, Stopwatch(state.seconds))
        params = self._models(state).delivered(state.delivered().params, len(self.experiment.data.clients))
        judge = None if self.experiment.data.validation is None else self.experiment.judge
        model.load(state.proxy)
        refined = model.refine(dict(params), public, judge, self._report(state.round, records))
        scores: Scores = {}
        if refined is not None:
            self.experiment.tunable.write(refined)
            scores = {split: found for split, _, found in self.experiment.evaluate_backbone()}
        records.watch.lap("evaluate")
        state = replace(state, refined=Refined(refined or {}, scores), seconds=records.watch.seconds)
        records.write()
        self._commit(state)
        return state

    def is_over(self, state: RunState) -> bool:
        """Whether the last round is done, the metric has stopped improving, or another round costs too much privacy."""
        patience = self.recipe.evaluate.patience
        stale = patience is not None and state.best is not None and state.evaluated - state.best.round >= patience
        return stale or state.round >= self.recipe.federation.rounds or not self.guard.allows(state.round + 1)

    def has_spent_its_budget(self, state: RunState) -> bool:
        """Whether the run ends before the recipe's last round because another would exceed the privacy budget."""
        return state.round < self.recipe.federation.rounds and not self.guard.allows(state.round + 1)

    def begin(self, state: RunState) -> Exchange:
        """The next round's exchange; before it, the clients' model is changed where a change is due."""
        self.stop.check(f"before round {state.round + 1}")
        records = Records(self.folder, state.round + 1, Stopwatch(state.seconds))
        for coming in comings(self.recipe.federation, self.experiment.data.clients, records.number):
            records.event(coming.kind, coming.client, "federation.presence")
        state = self._advance(state, records)
        return Exchange(
            self.experiment,
            self.outbox,
            self._pending,
            self.store,
            state,
            records,
            self.stop,
            listeners=self.listeners,
            guard=self.guard,
        )

    def end(self, exchange: Exchange, protocol: State) -> RunState:
        """The state after a round, recorded, and committed where that is due; listeners get it last."""
        state, news = self._ended(exchange, protocol)
        clients = len(self.experiment.data.clients)
        self.tripwires.played(state, lambda: dict(self._models(state).delivered(state.params, clients)))
        self._latest = state
        exchange.records.write()
        if self.is_over(state) or state.round % self.recipe.checkpoint.every == 0:
            self._commit(state)
            self._saved = state.round
        for listener in self.listeners:
            listener.on_round(news)
        return state

    def _ended(self, exchange: Exchange, protocol: State) -> tuple[RunState, dict[str, Any]]:
        """The state after a round, evaluated where that is due, and what listeners get; adds to the round's records."""
        records, watch, totals = exchange.records, exchange.records.watch, exchange.totals
        self._check_finite(protocol, exchange.residual)
        state = _counted(exchange.state, protocol, totals, records, is_sent=self.experiment.client_model.is_sent)
        if state.proxy is not None and exchange.residual:
            state = replace(state, proxy=self.experiment.client_model.absorb(state.proxy, exchange.residual))
        watch.lap("aggregate")
        train = ({} if totals.loss is None else {"loss": totals.loss}) | totals.figures
        if train:
            records.metrics.append(self._metrics_line(state.round, "train", train, totals.examples, watch))
        scores: Scores = {}
        if self._is_evaluated(state.round):
            state, scores = self._evaluate(state, records)
            state = self._with_scores(state, scores)
        state = replace(state, seconds=watch.seconds)
        records.costs += self.costs.lines(records)
        return state, self._news(exchange.state, state, totals, scores)

    def _is_evaluated(self, number: int) -> bool:
        """Whether the model is evaluated after a round: also after the last of each task of a stream."""
        timetable, last = self.experiment.data.timetable, number == self.recipe.federation.rounds
        return last or number % self.recipe.evaluate.every == 0 or (timetable is not None and timetable.ends(number))

    def _advance(self, state: RunState, records: Records) -> RunState:
        """The state with the clients' model changed, where a change is due."""
        model = self.experiment.client_model
        if state.proxy is None or not model.is_due(state.round):
            return state
        report = self._report(state.round, records)
        return replace(state, proxy=model.advance(state.proxy, state.params, state.round, state.activity, report))

    def _report(self, number: int, records: Records) -> Callable[[dict[str, Any]], None]:
        """Adds how closely the clients' model follows the backbone, stage by stage, to the metrics."""

        def report(found: dict[str, Any]) -> None:
            records.watch.lap("proxy")
            seconds = round(records.watch.seconds["total"], 3)
            records.metrics.append({"round": number, "split": "proxy", "client": None, **found, "seconds": seconds})

        return report

    def _check_finite(self, state: State, residual: Params) -> None:
        for group in (state.params, residual, *state.server.values()):
            if bad := [name for name, tensor in group.items() if not is_finite(tensor)]:
                raise RecipeError(
                    f"the server's step of round {state.round} overflowed in {len(bad)} tensors, first `{bad[0]}`; the "
                    "round is dropped: start a new run with smaller steps (local.learning_rate, algorithm.server_lr)",
                    where="algorithm",
                )

    def _evaluate(self, state: RunState, records: Records) -> tuple[RunState, Scores]:
        """The scores after a round, at the server, at clients or at both; and the state with what that cost."""
        scores: Scores = {}
        params = self._models(state).delivered(state.params, len(self.experiment.data.clients))
        for split, examples, found in self.experiment.evaluate(dict(params)):
            scores[split] = found
            records.watch.lap("evaluate")
            records.metrics.append(self._metrics_line(state.round, split, found, examples, records.watch))
        state, by_task = self._measure_tasks(state, records)
        scores |= by_task
        if self.recipe.evaluate.at == "server":
            return state, scores
        state, figures = self._measure_at_clients(state, records)
        for client in figures:
            line = self._metrics_line(state.round, "client", client.scores, client.examples, records.watch)
            records.metrics.append({**line, "client": client.client, "predictions": client.predictions})
        return state, scores | ({"clients": mean_over_clients(figures)} if figures else {})

    def _measure_tasks(self, state: RunState, records: Records) -> tuple[RunState, Scores]:
        """What the tasks of a stream come to after a round; and the state with the values on them. Else nothing."""
        measured = measure_tasks(self.experiment, state.round, state.tasks)
        records.watch.lap("evaluate")
        for found in measured.subjects:
            line = self._metrics_line(state.round, SPLIT, found.figures, found.examples, records.watch)
            task = {"task": found.task} if state.round else {}
            records.metrics.append({**line, "client": found.client or None, **task, "tasks": found.now})
        return replace(state, tasks=measured.rows), measured.scores

    def _measure_at_clients(self, state: RunState, records: Records) -> tuple[RunState, list[ClientFigures]]:
        """What clients measure after a round; and the state with the bytes of it, and without the clients' state."""
        own = Records(self.folder, state.round, records.watch)
        exchange = Exchange(
            self.experiment, self.outbox, Pending(self.runtime), self.store, state, own, self.stop, phase="evaluate"
        )
        clients = self.experiment.data.evaluating_clients()
        figures = measure_at_clients(
            exchange, self._models(state), state.params, clients, self.experiment.evaluator.metrics
        )
        records.wire += own.wire
        for client, spent in own.spent.items():
            records.spend(client, spent)
        # A client without held-out examples has not failed to train.
        records.events += [{**e, "kind": "not evaluated"} if e["kind"] == "failed" else e for e in own.events]
        totals = exchange.totals
        state = replace(
            state,
            refused=state.refused + totals.refused,
            bytes_down=state.bytes_down + totals.bytes_down,
            bytes_up=state.bytes_up + totals.bytes_up,
            holders=_holders(state, totals, is_sent=self.experiment.client_model.is_sent),
        )
        return state, figures

    def _models(self, state: RunState) -> ClientModels:
        store = kept_here(self.folder, self.recipe)
        return ClientModels.after(state, self.experiment.contract, self.recipe.protocol, store)

    def _with_scores(self, state: RunState, scores: Scores) -> RunState:
        """The state with this round's scores, and with this round as the best if it is."""
        if not scores:
            return state
        state = replace(state, latest=scores, evaluated=state.round)
        split = "validation" if "validation" in scores else self.experiment.judged_split
        metric = self.experiment.evaluator.metrics[0]
        if metric not in scores.get(split, {}):
            return state
        new, sign = scores[split][metric], 1 if self.experiment.data.task.metrics[metric] else -1
        if state.best is not None and not sign * new > sign * state.best.metrics[metric]:
            return state
        keep = self.recipe.evaluate.patience is not None
        version = state.proxy.number if state.proxy else 0
        best = Best(state.round, split, scores, version)
        return replace(state, best=best, best_params=state.params if keep else {})

    def _metrics_line(
        self, number: int, split: str, scores: Mapping[str, float], examples: int, watch: Stopwatch
    ) -> dict[str, Any]:
        return {
            "round": number,
            "split": split,
            "client": None,
            **scores,
            "examples": examples,
            "seconds": round(watch.seconds.get("total", 0.0), 3),
        }

    def _news(self, before: RunState, state: RunState, totals: Totals, scores: Scores) -> dict[str, Any]:
        rounds = self.recipe.federation.rounds
        return {
            "round": state.round,
            "rounds": rounds,
            "loss": totals.loss,
            "metrics": scores,
            "clients": {"ok": totals.updates, "failed": totals.failed, "refused": totals.refused},
            "bytes": {"down": state.bytes_down - before.bytes_down, "up": state.bytes_up - before.bytes_up},
            "seconds": state.seconds["total"] - before.seconds.get("total", 0.0),
            "eta_seconds": state.seconds["total"] / state.round * (rounds - state.round),
        }

    def _commit(self, state: RunState) -> None:
        offsets, keep = self.folder.offsets(), self.recipe.checkpoint.keep
        save_checkpoint(self.folder, state, offsets, keep=keep, identity=self.experiment.identity)
        if state.versions:
            before, self.outbox.forget = self.outbox.forget, oldest_versions(self.folder)
            for client, number in self.outbox.forget.items():
                if number != before.get(client):
                    self.store.forget_before(client, number)


def _counted(state: RunState, protocol: State, totals: Totals, records: Records, *, is_sent: bool) -> RunState:
    """The state after a round, with its counts added."""
    return replace(
        state,
        protocol=protocol,
        failed=state.failed + totals.failed,
        refused=state.refused + totals.refused,
        bytes_down=state.bytes_down + totals.bytes_down,
        bytes_up=state.bytes_up + totals.bytes_up,
        samples=state.samples + totals.samples,
        steps=(*state.steps, totals.steps),
        holders=_holders(state, totals, is_sent=is_sent),
        activity=totals.activity,
        contributions=after_round(state.contributions, sorted(totals.trained), records.events),
        versions=state.versions | totals.versions,
        refined=None,
    )


def _holders(state: RunState, totals: Totals, *, is_sent: bool) -> dict[str, int]:
    """Client id → the version of the model that it holds after an exchange; of one that is not sent, if not the first.

    Args:
        state: before it.
        totals: of it.
        is_sent: whether the server sends the model.
    """
    held = {**state.holders, **totals.downloaded}
    new = {client: version for client, version in totals.holds.items() if client in held or (version and not is_sent)}
    held |= new
    return {client: number for client, number in held.items() if client not in totals.stale}
