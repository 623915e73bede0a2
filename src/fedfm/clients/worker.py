"""A worker: the clients' side of a round. One backbone in memory; the clients' tunables come and go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from fedfm.clients.contract import Contract, Reception
from fedfm.clients.distilling import Distilling, Learner
from fedfm.clients.evaluation import Evaluator
from fedfm.clients.memory import keep_for_reuse
from fedfm.clients.meter import metered
from fedfm.clients.profile import Profile
from fedfm.clients.references import with_references
from fedfm.clients.retrieval.library import Library
from fedfm.clients.rules import ClientRound, LocalResult
from fedfm.clients.settings import LocalSettings
from fedfm.clients.stacked import Stacking
from fedfm.clients.state import LostStateError, State, decode_state, encode_state
from fedfm.clients.work import WORKS, Answer, ClientTask
from fedfm.clients.work.train import PrivateTraining, train_locally
from fedfm.data.batches import batch_plan
from fedfm.data.examples import Examples
from fedfm.data.streams import Timetable
from fedfm.models.frozen import FrozenWatch
from fedfm.models.tunable import Tunable
from fedfm.printable import quoted
from fedfm.privacy import ExamplePromise
from fedfm.privacy.noise import unpredictable_key
from fedfm.proxies.base import ClientCopy, StaleProxyError
from fedfm.randomness import derive_seed, numpy_generator, torch_seed
from fedfm.tasks.base import ADJUSTMENT, Batch, Task
from fedfm.updates import Failure, Instruction, Reply, Request, Spent, decode_instruction
from fedfm.updates.payload import PROXY
from fedfm.views.selection import Probing


class Workers(Protocol):
    """What plays clients for a runtime: one worker, or one for each of several backbones, which take turns."""

    @property
    def own(self) -> Worker:
        """The worker on the recipe's `model`."""
        ...

    @property
    def profile(self) -> Profile | None:
        """Gets the time that training takes; None: it is not measured."""
        ...

    def with_profile(self, profile: Profile) -> Workers:
        """The same, whose time is measured."""
        ...

    def with_references(self) -> Workers:
        """The same, with what a task that compares models compares the examples with; before round 1."""
        ...

    def passes(self, requests: Iterable[Request]) -> list[list[Request]]:
        """Requests in the order in which they are best answered, those together that share a pass."""
        ...

    def prepare(self, messages: Iterable[bytes]) -> None:
        """As `Worker.prepare`."""
        ...

    def answer(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """As `Worker.answer`."""
        ...


@dataclass(frozen=True)
class Worker:
    """Plays the clients whose data it can reach, several in one pass where they can share it.

    Attributes:
        tunable: the backbone with the parameters that are trained; overwritten by every client.
        task: loss and collation.
        processor: the backbone's tokenizer or image processor.
        examples: the training examples of all these clients.
        clients: client id → indices into ``examples``.
        local: how to train.
        contract: what crosses between server and client; has the algorithm's side, views and stages.
        seed: the run's seed.
        device: where the tunable is.
        copy: the model that the clients hold, the backbone or a proxy; the tunable is attached to it.
        rounds: of the run, over which a learning rate that changes from step to step is spread.
        holdout: client id → indices that it keeps from training.
        evaluator: of the tunable; None where clients are not asked to evaluate.
        trains_stale: whether a client whose proxy cannot be brought up to date trains on what it holds.
        stacking: how several clients are trained in one pass; None: one by one, in a plain loop.
        profile: gets the time that training takes; None: it is not measured.
        learner: reads public texts with the tunable; None where clients are not asked for predictions.
        digest: how a client with a backbone of its own learns from the server's logits.
        watch: looks for changes of frozen weights.
        memo: what kinds of work keep between answers to save time, by their names; it never changes a result.
        probing: what a client measures of the layers; None where clients are not asked for it.
        library: the texts that clients search; None where they are not asked questions.
        promise: what clients keep about each of their examples; None: nothing.
        together: whether the examples of a batch of private steps share a pass.
        timetable: what clients train on in which round; None: on all their examples in every round.
    """

    tunable: Tunable
    task: Task
    processor: object
    examples: Examples
    clients: Mapping[str, np.ndarray]
    local: LocalSettings
    contract: Contract
    seed: int
    device: torch.device
    copy: ClientCopy
    rounds: int = 1
    holdout: Mapping[str, np.ndarray] = field(default_factory=dict)
    evaluator: Evaluator | None = None
    trains_stale: bool = False
    stacking: Stacking | None = None
    profile: Profile | None = None
    learner: Learner | None = None
    digest: Distilling | None = None
    watch: FrozenWatch = field(default_factory=FrozenWatch)
    memo: dict[str, Any] = field(default_factory=dict)
    probing: Probing | None = None
    library: Library | None = None
    promise: ExamplePromise | None = None
    together: bool = False
    timetable: Timetable | None = None

    def answer(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answers requests in turn, each client's as soon as it is ready.

        Raises:
            MessageError: an instruction cannot be read.
        """
        if self.stacking is not None:  # every step takes what the last one did; `local.recompute` is never stacked
            keep_for_reuse()
        read: tuple[bytes, Instruction] | None = None
        for together in self.passes(requests):
            tasks: list[ClientTask] = []
            for request in together:
                if read is None or read[0] is not request.message:
                    read = request.message, decode_instruction(request.message)
                try:
                    tasks.append(_task(request, read[1]))
                except LostStateError as error:
                    yield Reply(request.client, Failure(request.client, str(error)))
            for (kind, _), alike in groupby(tasks, key=_shares_a_pass):
                if kind not in WORKS:
                    reason = f"it does not know the work {quoted(kind)}"
                    yield from (Reply(task.client, Failure(task.client, reason)) for task in alike)
                    continue
                for answer, spent in metered(WORKS[kind].answer(self, list(alike)), self.device):
                    yield _reply(answer, spent)

    def passes(self, requests: Iterable[Request]) -> list[list[Request]]:
        """Requests in the order given, those together that share a pass."""
        everyone, size = list(requests), self.stacking.clients if self.stacking else 1
        return [everyone[start : start + size] for start in range(0, len(everyone), size)]

    @property
    def own(self) -> Worker:
        """Itself, as `Workers.own`."""
        return self

    def with_profile(self, profile: Profile) -> Worker:
        """The same worker, whose time is measured."""
        return replace(self, profile=profile)

    def with_references(self) -> Worker:
        """The same worker, with what the task compares its clients' examples with; before round 1."""
        if not self.task.compares:
            return self
        if self.evaluator is None:
            raise ValueError("a worker without an evaluator has nothing to compare with")
        sets = [np.concatenate([own, self.holdout.get(client, own[:0])]) for client, own in self.clients.items()]
        examples = with_references(self.evaluator, self.examples, dict(self.contract.start), sets)
        return replace(self, examples=examples)

    def trained(self, client: str, round: int) -> np.ndarray:  # noqa: A002 - the field's word
        """Indices into ``examples`` of what a client trains on in a round."""
        held = self.clients[client]
        return held if self.timetable is None else self.timetable.trained(held, client, round)

    @property
    def version(self) -> int:
        """Of the model that the clients hold."""
        return self.copy.number

    def prepare(self, messages: Iterable[bytes]) -> None:
        """Brings the model that the clients share up to date, for workers that are made as copies of this one.

        A failure is left to the client's turn, which reports it.
        """
        for message in {id(message): message for message in messages}.values():
            with suppress(StaleProxyError):
                self.update_copy(decode_instruction(message))

    def receive(self, task: ClientTask) -> Reception:
        """What a client's round starts from: its proxy brought up to date, its message decoded.

        For a kind of work whose message has the tunable; another one calls `update_copy`, and reads the groups itself.

        Raises:
            MessageError: the instruction does not fit the recipe.
            StaleProxyError: the client's proxy cannot be brought up to date.
        """
        self.update_copy(task.instruction)
        extras = WORKS[task.instruction.work].gets_extras
        return self.contract.receive(task.client, task.instruction, task.own, extras=extras)

    def fit(
        self,
        indices: np.ndarray,
        at: ClientRound,
        *,
        client: str,
        round: int,  # noqa: A002 - the field's word
        max_steps: int | None = None,
        trains: Mapping[str, Tensor] | None = None,
    ) -> LocalResult:
        """Trains the tunable in place on some examples.

        All randomness is keyed by (seed, round, client); of private steps, it comes from the system's entropy, since
        the server knows these keys.

        Args:
            indices: into ``examples``.
            at: what it starts from.
            client: key of the random choices.
            round: key of the random choices.
            max_steps: in place of the recipe's ``local`` budget; not where steps are private.
            trains: the coordinates that change, as `train_locally`.
        """
        private, seed = None, self.seed
        if self.promise is None:
            plan = self.plan(len(indices), client, round, max_steps)
        else:
            private, seed = PrivateTraining(self.promise.at(len(indices)), self.together), unpredictable_key()
            plan = private.steps.plan()
        rates = self.local.step_rates(round, self.rounds, len(plan))
        batches = self.on_device(self.batches(indices, plan, client, round, seed))
        with torch_seed(seed, "dropout", round=round, client=client):
            return train_locally(
                self.tunable,
                self.task,
                batches,
                self.local,
                self.contract.rule,
                at,
                trains=trains,
                rates=rates,
                private=private,
            )

    def plan(self, count: int, client: str, round: int, max_steps: int | None = None) -> list[np.ndarray]:  # noqa: A002
        """Positions of the examples of each batch, for a client with ``count`` examples."""
        return batch_plan(
            count,
            self.local.batch_size,
            epochs=self.local.epochs,
            max_steps=max_steps or self.local.max_steps,
            generator=numpy_generator(self.seed, "batches", round=round, client=client),
        )

    def batches(
        self,
        indices: np.ndarray,
        plan: Sequence[np.ndarray],
        client: str,
        round: int,  # noqa: A002 - the field's word
        seed: int | None = None,
    ) -> Iterator[Batch]:
        """The batches of a plan, on the CPU; an empty one is ``{}``.

        Args:
            indices: into ``examples``.
            plan: positions in ``indices`` for each batch.
            client: key of the random choices.
            round: key of the random choices.
            seed: in place of the run's.
        """
        key = derive_seed(self.seed if seed is None else seed, "masks", round=round, client=client)
        collate = self.task.collate(self.processor, key)
        adjustment = self._adjustment(indices)
        for step in plan:
            if not len(step):
                yield {}
                continue
            if self.profile is not None:
                self.profile.tokens += int(self.examples.lengths[indices[step]].sum())
            batch = collate(self.examples.take(indices[step]))
            yield batch if adjustment is None else {**batch, ADJUSTMENT: adjustment.expand(len(step), -1)}

    def _adjustment(self, indices: np.ndarray) -> Tensor | None:
        """τ·log π of some examples' classes, ``[C]``, each counted once more than it occurs; None without τ."""
        labels, strength = self.examples.labels, self.local.logit_adjustment
        if labels is None or not strength:
            return None
        classes = cast(int, self.tunable.base_model.config.num_labels)
        counts = np.bincount(labels[indices], minlength=classes) + 1.0
        return torch.from_numpy(strength * np.log(counts / counts.sum())).float()

    def on_device(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches where the tunable is."""
        for batch in batches:
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}

    def update_copy(self, instruction: Instruction) -> None:
        """Brings the model that the clients hold to the version that a message names, with the changes in it.

        Without a proxy it does nothing.

        Raises:
            StaleProxyError: the changes do not fit the version that is here, and clients may not train on a stale one.
        """
        facts, changes = instruction.facts, dict(instruction.groups.get(PROXY, {}))
        try:
            self.copy.receive(changes, since=facts.proxy_since, number=facts.proxy_version)
        except StaleProxyError:
            if not self.trains_stale:
                raise


def _shares_a_pass(task: ClientTask) -> tuple[str, float]:
    """What clients of one pass have in common."""
    return task.instruction.work, task.instruction.facts.learning_rate


def _task(request: Request, instruction: Instruction) -> ClientTask:
    own: State = {} if request.state is None else decode_state(request.state)
    if instruction.facts.continue_from and not own:
        raise LostStateError(
            f"the client's state of round {instruction.facts.continue_from} is no longer there; start a new run"
        )
    return ClientTask(request.client, instruction, own)


def _reply(answer: Answer, spent: Spent) -> Reply:
    if isinstance(answer.update, Failure):
        return Reply(answer.client, answer.update, spent=spent)
    if not answer.own:
        return Reply(answer.client, answer.update.encode(), spent=spent)
    state = encode_state(answer.own)
    facts = answer.update.facts.model_copy(update={"state": hashlib.sha256(state).hexdigest()})
    return Reply(answer.client, replace(answer.update, facts=facts).encode(), state, spent)
