"""The round loop: sample a cohort, instruct, screen, aggregate, step, evaluate, record, checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedfm.algorithms import ServerState
from fedfm.clients.memory import give_back_at_once, give_back_now, keep_for_reuse
from fedfm.errors import InterruptedRunError, RecipeError, TooFewClientsError
from fedfm.params import Params, digest, is_finite
from fedfm.printable import line
from fedfm.proxies.base import ModelVersion
from fedfm.records.folder import RunFolder
from fedfm.records.listeners import Listener
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.nodes import NodesRuntime
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.checkpoints import save_checkpoint
from fedfm.server.rounds.exchange import Answers, Exchange
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.outgoing import Outgoing, holders
from fedfm.server.rounds.participation import after_round
from fedfm.server.rounds.round_records import Records, Stopwatch
from fedfm.server.rounds.sampling import sample_cohort
from fedfm.server.rounds.state import Best, RunState
from fedfm.updates import Instruction, decode_instruction

Scores = dict[str, dict[str, float]]
"""Split → loss and metrics."""


class RoundLoop:
    """Plays the rounds of one run. A round's state, records and checkpoint appear together or not at all."""

    def __init__(
        self,
        experiment: Experiment,
        runtime: Runtime,
        folder: RunFolder,
        listeners: Sequence[Listener],
        stop: StopRequest,
    ) -> None:
        self.experiment = experiment
        self.recipe = experiment.recipe
        self.exchange = Exchange(runtime, experiment.recipe, listeners, stop, experiment.proxy)
        self.outgoing = Outgoing(runtime, experiment.proxy)
        self.folder = folder
        self.listeners = listeners
        self.stop = stop
        self.identity = experiment.identity
        self._trains_elsewhere = isinstance(runtime, NodesRuntime)

    def start(self) -> RunState:
        """The state before round 1: the tunable as initialised, evaluated and saved."""
        params = self.experiment.start
        records, watch = Records(), Stopwatch({})
        proxy = None
        if self.experiment.proxy is not None:
            proxy = self.experiment.proxy.prepare(params, self._proxy_report(0, records, watch))
        scores = self._evaluate(params, 0, records, watch)
        if proxy is not None:
            scores["proxy"] = self.experiment.evaluate_proxy(params)
            watch.lap("evaluate")
        state = RunState(
            round=0,
            params=params,
            algorithm=self.recipe.algorithm.start(params),
            initial=scores,
            latest=scores,
            seconds=watch.seconds,
            proxy=proxy,
        )
        self._commit(state, records)
        return state

    def play(self, state: RunState) -> RunState:
        """Plays rounds until the recipe's last, or until the validation metric has stopped improving.

        Raises:
            InterruptedRunError: somebody asked to stop; the state after the last whole round is saved.
            TooFewClientsError: a round had fewer sound updates than the quorum; the state before it is saved.
            StorageError: a checkpoint could not be written; the last one is intact.
        """
        saved = state.round
        if state.proxy is not None and self.experiment.proxy is not None:
            self.experiment.proxy.load(state.proxy)
            self.outgoing.runtime.hand_out(sorted(state.holders), state.proxy)
        try:
            while not self._is_over(state):
                self.stop.check(f"before round {state.round + 1}")
                state, records, news = self._play_round(state)
                if self._is_over(state) or state.round % self.recipe.checkpoint.every == 0:
                    self._commit(state, records)
                    saved = state.round
                else:
                    records.write(self.folder)
                for listener in self.listeners:
                    listener.on_round(news)
        except (InterruptedRunError, TooFewClientsError):
            if saved != state.round:
                self._commit(state, Records())
            raise
        return state

    def _is_over(self, state: RunState) -> bool:
        patience = self.recipe.evaluate.patience
        stale = patience is not None and state.best is not None and state.evaluated - state.best.round >= patience
        return stale or state.round >= self.recipe.federation.rounds

    def _play_round(self, state: RunState) -> tuple[RunState, Records, dict[str, Any]]:
        """The next state, what to write down about how it came about, and what listeners hear of it."""
        recipe, number = self.recipe, state.round + 1
        records, watch = Records(), Stopwatch(state.seconds)
        before = watch.seconds.get("total", 0.0)
        if state.proxy is not None and self._aligns_after(state.round):
            state = replace(state, proxy=self._align(state, state.proxy, records, watch))
        enough, asked = self._sizes()
        cohort = sample_cohort(
            self.experiment.data.clients,
            asked,
            sampling=recipe.federation.sampling,
            seed=recipe.seed,
            round=number,
        )
        came_back, bytes_down = self._exchange(state, cohort, enough, records, watch)
        self._check_quorum(number, came_back, enough or len(cohort), records)

        params, algorithm = state.params, state.algorithm
        if came_back.accepted:
            params, algorithm = recipe.algorithm.server_step(params, came_back.fold.result(), algorithm)
            self._check_finite(number, params, algorithm)
        watch.lap("aggregate")
        state = replace(
            state,
            round=number,
            params=params,
            algorithm=algorithm,
            failed=state.failed + came_back.failed,
            refused=state.refused + came_back.refused,
            bytes_down=state.bytes_down + bytes_down,
            bytes_up=state.bytes_up + came_back.bytes_up,
            samples=state.samples + came_back.samples,
            steps=(*state.steps, came_back.steps),
            holders=holders(state, cohort, came_back),
            activity=came_back.activity,
            contributions=after_round(state.contributions, came_back.trained, records.events),
        )
        if came_back.loss is not None:
            train = {"loss": came_back.loss}
            records.metrics.append(self._metrics_line(number, "train", train, came_back.examples, watch))
        scores: Scores = {}
        if number % recipe.evaluate.every == 0 or number == recipe.federation.rounds:
            scores = self._evaluate(params, number, records, watch)
            state = self._with_scores(state, scores)
        state = replace(state, seconds=watch.seconds)
        news = self._news(state, came_back, bytes_down, scores, watch.seconds["total"] - before)
        return state, records, news

    def _exchange(
        self, state: RunState, cohort: Mapping[str, int], enough: int | None, records: Records, watch: Stopwatch
    ) -> tuple[Answers, int]:
        """What the cohort answers, folded, and the bytes that it was sent."""
        recipe, number = self.recipe, state.round + 1
        instruction = Instruction(
            round=number,
            base=digest(state.params),
            learning_rate=recipe.local.learning_rate_at(number, recipe.federation.rounds),
            params=state.params,
            proxy_version=state.proxy.number if state.proxy else 0,
            count_activity=self.experiment.proxy is not None and self.experiment.proxy.counts_at(number),
        )
        self._make_room()
        messages = self.outgoing(state, instruction, list(cohort), records.wire)
        if messages:  # the parameters lie in a message now: whoever holds them lets go of where they were
            state.params.update(decode_instruction(next(iter(messages.values()))).params)
        watch.lap("wire")
        came_back = self.exchange(cohort, instruction, messages, records, watch, enough=enough)
        return came_back, sum(map(len, messages.values()))

    def _aligns_after(self, number: int) -> bool:
        """Whether the proxy is realigned between a round and the next; after the last round there is none."""
        return self.experiment.proxy is not None and self.experiment.proxy.is_due(number)

    def _align(self, state: RunState, version: ModelVersion, records: Records, watch: Stopwatch) -> ModelVersion:
        if self.experiment.proxy is None:
            raise RuntimeError("there is no proxy to align")
        report = self._proxy_report(state.round, records, watch)
        return self.experiment.proxy.advance(version, state.params, state.round, state.activity, report)

    def _proxy_report(self, number: int, records: Records, watch: Stopwatch) -> Callable[[dict[str, Any]], None]:
        """Writes down how like the backbone the proxy is, stage by stage."""

        def report(found: dict[str, Any]) -> None:
            watch.lap("proxy")
            seconds = round(watch.seconds["total"], 3)
            records.metrics.append({"round": number, "split": "proxy", "client": None, **found, "seconds": seconds})

        return report

    def _sizes(self) -> tuple[int | None, float]:
        """How many updates are enough for a round, None where all that are asked are wanted; and how many are asked."""
        federation, clients = self.recipe.federation, len(self.experiment.data.clients)
        if federation.sampling == "poisson":
            return None, federation.expected_cohort(clients)
        wanted = federation.cohort_size(clients)
        asked = self.recipe.runtime.asked(wanted, clients)
        return (wanted if self.recipe.runtime.spares else None), asked

    def _check_quorum(self, number: int, came_back: Answers, wanted: int, records: Records) -> None:
        quorum, least = self.recipe.federation.quorum, self.recipe.federation.min_clients or 0
        if came_back.accepted >= max(quorum * wanted, least):
            return
        asks = f"federation.quorum ({quorum:g}) asks for"
        if came_back.accepted >= quorum * wanted:
            asks = f"federation.min_clients ({least}) asks for"
        for event in records.events:
            self.folder.append(self.folder.events, event)
        reasons = "".join(
            f"\n  client {line(event['client'])} {event['kind']}: {event['reason']}" for event in records.events[:5]
        )
        raise TooFewClientsError(
            f"only {came_back.accepted} of {wanted} clients gave a sound update in round {number}, fewer than "
            f"{asks}; see {self.folder.events}{reasons}",
            repeats=not came_back.failed,  # every choice is keyed, so the same updates are met again
        )

    def _check_finite(self, number: int, params: Params, algorithm: ServerState) -> None:
        for group in (params, *algorithm.values()):
            if bad := [name for name, tensor in group.items() if not is_finite(tensor)]:
                raise RecipeError(
                    f"the server's step of round {number} overflowed in {len(bad)} tensors, first `{bad[0]}`; the "
                    "round is dropped: start a new run with smaller steps (local.learning_rate, algorithm.server_lr)",
                    where="algorithm",
                )

    def _evaluate(self, params: Params, number: int, records: Records, watch: Stopwatch) -> Scores:
        data = self.experiment.data
        if self._trains_elsewhere:
            keep_for_reuse()
        self.experiment.plug_in(params)
        scores: Scores = {}
        for split, part in (("validation", data.validation), ("test", data.test)):
            if part is not None:
                scores[split] = self.experiment.evaluator(part)
                watch.lap("evaluate")
                records.metrics.append(self._metrics_line(number, split, scores[split], len(part), watch))
        return scores

    def _make_room(self) -> None:
        """Where clients train elsewhere: for their updates, at the cost of what only evaluation needs."""
        if self._trains_elsewhere:
            self.experiment.tunable.let_go()
            give_back_at_once()
            give_back_now()

    def _with_scores(self, state: RunState, scores: Scores) -> RunState:
        """The state with this round's scores, and with this round as the best if it is."""
        state = replace(state, latest=scores, evaluated=state.round)
        split = "validation" if "validation" in scores else "test"
        metric = self.experiment.evaluator.metrics[0]
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

    def _news(
        self, state: RunState, came_back: Answers, bytes_down: int, scores: Scores, seconds: float
    ) -> dict[str, Any]:
        rounds = self.recipe.federation.rounds
        return {
            "round": state.round,
            "rounds": rounds,
            "loss": came_back.loss,
            "metrics": scores,
            "clients": {"ok": came_back.accepted, "failed": came_back.failed, "refused": came_back.refused},
            "bytes": {"down": bytes_down, "up": came_back.bytes_up},
            "seconds": seconds,
            "eta_seconds": state.seconds["total"] / state.round * (rounds - state.round),
        }

    def _commit(self, state: RunState, records: Records) -> None:
        records.write(self.folder)
        save_checkpoint(
            self.folder,
            state,
            self.folder.offsets(),
            keep=self.recipe.checkpoint.keep,
            identity=self.identity,
        )
