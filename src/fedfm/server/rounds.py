"""The round loop: sample a cohort, instruct, screen, aggregate, step, evaluate, record, checkpoint."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedfm.aggregation import MeanFold
from fedfm.algorithms import ServerState
from fedfm.errors import InterruptedRunError, RecipeError, TooFewClientsError
from fedfm.params import Params, digest
from fedfm.records.folder import RunFolder
from fedfm.records.ledger import message_record
from fedfm.records.listeners import Listener
from fedfm.runtimes import Runtime
from fedfm.server.checkpoints import save_checkpoint
from fedfm.server.experiment import Experiment
from fedfm.server.interrupts import StopRequest
from fedfm.server.sampling import sample_cohort
from fedfm.server.screening import screen
from fedfm.server.state import Best, RunState
from fedfm.updates import Failure, Instruction, MessageError, decode_update, encode_instruction

Scores = dict[str, dict[str, float]]
"""Split → loss and metrics."""


@dataclass
class Records:
    """The lines that one round adds to the run's files; written only when the round is over."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    wire: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: RunFolder) -> None:
        """Appends everything to the run's files."""
        for file, lines in ((folder.metrics, self.metrics), (folder.wire, self.wire), (folder.events, self.events)):
            for line in lines:
                folder.append(file, line)


@dataclass
class Cohort:
    """What came back in one round."""

    fold: MeanFold
    losses: list[tuple[float, int]] = field(default_factory=list)
    accepted: int = 0
    failed: int = 0
    refused: int = 0
    steps: int = 0
    samples: int = 0
    bytes_up: int = 0

    @property
    def examples(self) -> int:
        """Training examples of the accepted clients."""
        return sum(examples for _, examples in self.losses)

    @property
    def loss(self) -> float:
        """Mean training loss, clients weighted by their examples."""
        return sum(loss * examples for loss, examples in self.losses) / self.examples


class Stopwatch:
    """Adds wall time to named phases and to their total."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds = dict(seconds)
        self._last = time.perf_counter()

    def lap(self, phase: str) -> float:
        """Books the time since the last lap on ``phase``; returns it."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        for name in (phase, "total"):
            self.seconds[name] = self.seconds.get(name, 0.0) + passed
        return passed


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
        self.runtime = runtime
        self.folder = folder
        self.listeners = listeners
        self.stop = stop
        self.identity = experiment.identity

    def start(self) -> RunState:
        """The state before round 1: the tunable as initialised, evaluated and saved."""
        params = self.experiment.start
        records, watch = Records(), Stopwatch({})
        scores = self._evaluate(params, 0, records, watch)
        state = RunState(
            round=0,
            params=params,
            algorithm=self.recipe.algorithm.start(params),
            initial=scores,
            latest=scores,
            seconds=watch.seconds,
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
        saved = state
        try:
            while not self._is_over(state):
                self.stop.check(f"before round {state.round + 1}")
                state, records, news = self._play_round(state)
                if self._is_over(state) or state.round % self.recipe.checkpoint.every == 0:
                    self._commit(state, records)
                    saved = state
                else:
                    records.write(self.folder)
                for listener in self.listeners:
                    listener.on_round(news)
        except (InterruptedRunError, TooFewClientsError):
            if saved is not state:
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
        cohort = sample_cohort(
            self.experiment.data.federation.sizes,
            self._per_round(),
            sampling=recipe.federation.sampling,
            seed=recipe.seed,
            round=number,
        )
        instruction = Instruction(
            round=number,
            base=digest(state.params),
            learning_rate=recipe.local.learning_rate_at(number, recipe.federation.rounds),
            params=state.params,
        )
        message = encode_instruction(instruction)
        if cohort:
            records.wire.append(message_record(number, "down", list(cohort), len(message), instruction.params))
        watch.lap("wire")
        came_back = self._exchange(cohort, instruction, message, records, watch)
        self._check_quorum(came_back, cohort, records)

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
            bytes_down=state.bytes_down + len(message) * len(cohort),
            bytes_up=state.bytes_up + came_back.bytes_up,
            samples=state.samples + came_back.samples,
            steps=(*state.steps, came_back.steps),
        )
        if came_back.accepted:
            train = {"loss": came_back.loss}
            records.metrics.append(self._metrics_line(number, "train", train, came_back.examples, watch))
        scores: Scores = {}
        if number % recipe.evaluate.every == 0 or number == recipe.federation.rounds:
            scores = self._evaluate(params, number, records, watch)
            state = self._with_scores(state, scores)
        state = replace(state, seconds=watch.seconds)
        news = self._news(state, came_back, len(message) * len(cohort), scores, watch.seconds["total"] - before)
        return state, records, news

    def _per_round(self) -> float:
        federation, clients = self.recipe.federation, len(self.experiment.data.federation.train)
        return (
            federation.expected_cohort(clients) if federation.sampling == "poisson" else federation.cohort_size(clients)
        )

    def _exchange(
        self, cohort: Mapping[str, int], instruction: Instruction, message: bytes, records: Records, watch: Stopwatch
    ) -> Cohort:
        """Sends the instruction and folds what is sound in the order of the clients' ids, whenever answers come in."""
        came_back = Cohort(self.recipe.aggregate.start())
        early: dict[str, bytes | Failure] = {}
        turn = deque(cohort)
        place = f"in round {instruction.round}"

        def fold(client: str, answer: bytes | Failure) -> None:
            event = self._take(client, answer, cohort[client], instruction, came_back, records)
            if event is not None:
                records.events.append({"round": instruction.round, **event})

        done = 0
        for client, answer in self.runtime.exchange(list(cohort), message):
            seconds = watch.lap("train")
            self.stop.check(place)
            if client not in turn or client in early:
                reason = "it answered twice" if client in cohort else "it was not asked"
                records.events.append(
                    {"round": instruction.round, "kind": "refused", "client": client, "reason": reason}
                )
                came_back.refused += 1
                continue
            early[client] = answer
            while turn and turn[0] in early:
                fold(turn[0], early.pop(turn[0]))
                turn.popleft()
            done += 1
            for listener in self.listeners:
                listener.on_client(instruction.round, done, len(cohort), client, seconds)
            watch.lap("wire")
        self.stop.check(place)
        for client in turn:
            fold(client, early.get(client, Failure(client, "it gave no answer")))
        return came_back

    def _take(
        self,
        client: str,
        answer: bytes | Failure,
        copies: int,
        instruction: Instruction,
        came_back: Cohort,
        records: Records,
    ) -> dict[str, str] | None:
        """Folds one answer in; the event to record when it is not usable."""
        if isinstance(answer, Failure):
            came_back.failed += 1
            return {"kind": "failed", "client": client, "reason": answer.reason, "details": answer.details}
        came_back.bytes_up += len(answer)
        try:
            update = decode_update(answer)
            reason = screen(update, instruction, client=client)
        except MessageError as error:
            update, reason = None, str(error)
        records.wire.append(
            message_record(instruction.round, "up", [client], len(answer), update.params if update else {})
        )
        if update is None or reason is not None:
            came_back.refused += 1
            return {"kind": "refused", "client": client, "reason": reason or ""}
        weight = self.recipe.aggregate.weight(update.examples, copies=copies, sampling=self.recipe.federation.sampling)
        came_back.fold.add(update.params, weight)
        came_back.accepted += 1
        came_back.steps += update.steps
        came_back.samples += update.samples
        came_back.losses.append((update.loss, update.examples))
        return None

    def _check_quorum(self, came_back: Cohort, cohort: Mapping[str, int], records: Records) -> None:
        quorum = self.recipe.federation.quorum
        if came_back.accepted >= quorum * len(cohort):
            return
        for event in records.events:
            self.folder.append(self.folder.events, event)
        reasons = "".join(
            f"\n  client {event['client']} {event['kind']}: {event['reason']}" for event in records.events[:5]
        )
        # Every choice is keyed, so a resumed run meets the same updates: only failures may pass.
        remedy = (
            f"when the clients are well again: fedfm resume {self.folder.path}"
            if came_back.failed
            else "resuming would repeat it: mend what the reasons say and start a new run"
        )
        raise TooFewClientsError(
            f"only {came_back.accepted} of {len(cohort)} clients gave a sound update, fewer than federation.quorum "
            f"({quorum:g}) asks for; see {self.folder.events}{reasons}\n{remedy}"
        )

    def _check_finite(self, number: int, params: Params, algorithm: ServerState) -> None:
        for group in (params, *algorithm.values()):
            if bad := [name for name, tensor in group.items() if not torch.isfinite(tensor).all()]:
                raise RecipeError(
                    f"the server's step of round {number} overflowed in {len(bad)} tensors, first `{bad[0]}`; the "
                    "round is dropped: start a new run with smaller steps (local.learning_rate, algorithm.server_lr)",
                    where="algorithm",
                )

    def _evaluate(self, params: Params, number: int, records: Records, watch: Stopwatch) -> Scores:
        data = self.experiment.data
        self.experiment.tunable.write(params)
        scores: Scores = {}
        for split, part in (("validation", data.validation), ("test", data.test)):
            if part is not None:
                scores[split] = self.experiment.evaluator(part)
                watch.lap("evaluate")
                records.metrics.append(self._metrics_line(number, split, scores[split], len(part), watch))
        return scores

    def _with_scores(self, state: RunState, scores: Scores) -> RunState:
        """The state with this round's scores, and with this round as the best if it is."""
        state = replace(state, latest=scores, evaluated=state.round)
        split = "validation" if "validation" in scores else "test"
        metric = self.experiment.evaluator.metrics[0]
        new, sign = scores[split][metric], 1 if self.experiment.data.task.metrics[metric] else -1
        if state.best is not None and not sign * new > sign * state.best.metrics[metric]:
            return state
        keep = self.recipe.evaluate.patience is not None
        return replace(state, best=Best(state.round, split, scores), best_params=state.params if keep else {})

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
        self, state: RunState, came_back: Cohort, bytes_down: int, scores: Scores, seconds: float
    ) -> dict[str, Any]:
        rounds = self.recipe.federation.rounds
        return {
            "round": state.round,
            "rounds": rounds,
            "loss": came_back.loss if came_back.accepted else None,
            "metrics": scores,
            "clients": {"ok": came_back.accepted, "failed": came_back.failed, "refused": came_back.refused},
            "bytes": {"down": bytes_down, "up": came_back.bytes_up},
            "seconds": seconds,
            "eta_seconds": state.seconds["total"] / state.round * (rounds - state.round),
        }

    def _commit(self, state: RunState, records: Records) -> None:
        records.write(self.folder)
        save_checkpoint(
            self.folder.path,
            state,
            self.folder.offsets(),
            keep=self.recipe.checkpoint.keep,
            identity=self.identity,
        )
