"""A worker: clients' side of a round. One backbone in memory; the clients' tunables come and go."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedfm.clients.memory import keep_for_reuse
from fedfm.clients.profile import Profile, phase, profiling
from fedfm.clients.settings import LocalSettings
from fedfm.clients.stacked import Stacking, StackMember, train_stacked
from fedfm.clients.training import GradientRule, LocalResult, train_locally
from fedfm.data.batches import batch_plan, evaluation_batches
from fedfm.data.examples import Examples
from fedfm.models.stacked import FrozenPrefix
from fedfm.models.tunable import Tunable
from fedfm.params import Params, subtract
from fedfm.printable import line
from fedfm.proxies.base import ClientCopy, StaleProxyError
from fedfm.randomness import derive_seed, numpy_generator, torch_seed
from fedfm.tasks.base import Batch, Task
from fedfm.updates import Failure, Instruction, Update, decode_instruction, encode_update

PREFIX_BATCH = 32
"""Examples of a client that pass its model's frozen first blocks at once."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """Trains the clients whose data it can reach, several in one pass where they can share it.

    Attributes:
        tunable: the backbone with the parameters that are trained; overwritten by every client.
        task: loss and collation.
        processor: the backbone's tokenizer or image processor.
        examples: the training examples of all these clients.
        clients: client id → indices into ``examples``.
        local: how to train.
        gradient_rule: the algorithm's hook.
        seed: the run's seed.
        device: where the tunable is.
        proxy: what the clients hold in place of the backbone, where they do; the tunable is attached to it.
        trains_stale: whether a client whose proxy cannot be brought up to date trains on what it holds.
        stacking: how several clients are trained in one pass; None: one by one, in a plain loop.
        profile: gets the time that training takes; None: nobody asked.
    """

    tunable: Tunable
    task: Task
    processor: object
    examples: Examples
    clients: Mapping[str, np.ndarray]
    local: LocalSettings
    gradient_rule: GradientRule
    seed: int
    device: torch.device
    proxy: ClientCopy | None = None
    trains_stale: bool = False
    stacking: Stacking | None = None
    profile: Profile | None = None

    def train(self, messages: Mapping[str, bytes]) -> Generator[tuple[str, bytes | Failure]]:
        """Answers each client's instruction in turn: the bytes of an update, or why there is none.

        Args:
            messages: client id → instruction; clients alike share one object, which is decoded once.

        Raises:
            MessageError: an instruction cannot be read.
        """
        if self.stacking is not None:  # every step takes what the last one did; `local.recompute` is never stacked
            keep_for_reuse()
        read: tuple[bytes, Instruction] | None = None
        for clients in self.passes(messages):
            instructions: dict[str, Instruction] = {}
            for client in clients:
                if read is None or read[0] is not messages[client]:
                    read = messages[client], decode_instruction(messages[client])
                instructions[client] = read[1]
            yield from self._answers(instructions)

    def passes(self, clients: Iterable[str]) -> list[list[str]]:
        """Clients in the order given, those together that share a pass."""
        everyone, size = list(clients), self.stacking.clients if self.stacking else 1
        return [everyone[start : start + size] for start in range(0, len(everyone), size)]

    @property
    def version(self) -> int:
        """Of the proxy that the clients hold; 0 where there is none."""
        return 0 if self.proxy is None else self.proxy.number

    def prepare(self, messages: Mapping[str, bytes]) -> None:
        """Brings the proxy that the clients share up to date, for workers that are made as copies of this one.

        What cannot be done is left to the client's turn, which tells of it.
        """
        if self.proxy is not None:
            for message in {id(message): message for message in messages.values()}.values():
                with suppress(StaleProxyError):
                    self._bring_up_to_date(decode_instruction(message))

    def _answers(self, instructions: Mapping[str, Instruction]) -> Iterator[tuple[str, bytes | Failure]]:
        """The answers of clients that may share a pass; where that fails, each is asked alone, to tell whose fault."""
        problem = None
        if self.stacking is not None and not any(asked.count_activity for asked in instructions.values()):
            booked = self.profile.record() if self.profile else None
            try:
                with profiling(self.profile):
                    updates = self._train_stacked(self.stacking, instructions)
            except Exception as error:
                problem = _line(error)
                if self.profile is not None and booked is not None:
                    self.profile.go_back_to(booked)
            else:
                yield from ((update.client, encode_update(update)) for update in updates)
                return
        failures = 0
        for client, instruction in instructions.items():
            answer = self._answer(client, instruction)
            failures += isinstance(answer, Failure)
            yield client, answer
        if problem is not None and not failures:
            _log.warning("%d clients could only be trained one by one, not together: %s", len(instructions), problem)

    def _answer(self, client: str, instruction: Instruction) -> bytes | Failure:
        try:
            with profiling(self.profile):
                update = self._train(client, instruction)
            return encode_update(update)
        except Exception as error:  # one client's failure, whatever it is, must not end the others' round
            reason = _line(error)
            if isinstance(error, torch.OutOfMemoryError):
                reason = "out of memory: lower local.batch_size or data.max_length"
            return Failure(client, reason, traceback.format_exc(), stale=isinstance(error, StaleProxyError))

    def _train_stacked(self, stacking: Stacking, instructions: Mapping[str, Instruction]) -> list[Update]:
        versions = [self._bring_up_to_date(instruction) for instruction in instructions.values()]
        members = []
        for client, asked in instructions.items():
            indices = self.clients[client]
            plan = self._plan(len(indices), client, asked.round)
            batches = self._batches(indices, plan, client, asked.round)
            with phase("forward"):
                table = self._table(stacking.prefix, indices) if stacking.prefix else {}
            members.append(StackMember(asked.params, [indices[step] for step in plan], batches, table))
        results = train_stacked(
            self.tunable,
            stacking,
            self.task,
            members,
            self.local,
            learning_rate=next(iter(instructions.values())).learning_rate,
            gradient_rule=self.gradient_rule,
            device=self.device,
        )
        return [
            self._update(client, asked, result, trained, version)
            for (client, asked), (result, trained), version in zip(instructions.items(), results, versions, strict=True)
        ]

    def _table(self, prefix: FrozenPrefix, indices: np.ndarray) -> dict[int, Tensor]:
        """What the frozen prefix makes of a client's examples, batched by length."""
        self.tunable.eval()
        chunks = evaluation_batches(self.examples.lengths[indices], PREFIX_BATCH)
        collate = self.task.collate(self.processor, 0)

        def batches() -> Iterator[Batch]:
            for chunk in chunks:
                batch = collate(self.examples.take(indices[chunk]))
                yield {name: tensor.to(self.device) for name, tensor in batch.items() if name != "labels"}

        return prefix.of_client([int(number) for chunk in chunks for number in indices[chunk]], batches)

    def _train(self, client: str, instruction: Instruction) -> Update:
        version = self._bring_up_to_date(instruction)
        self.tunable.write(instruction.params)
        with ExitStack() as stack:
            counts = None
            if instruction.count_activity and self.proxy is not None:
                counts = stack.enter_context(self.proxy.counting(self.tunable))
            result = self.fit(
                self.clients[client], client=client, round=instruction.round, learning_rate=instruction.learning_rate
            )
        return self._update(client, instruction, result, self.tunable.read(), version, counts() if counts else {})

    def _update(
        self,
        client: str,
        instruction: Instruction,
        result: LocalResult,
        trained: Params,
        version: int,
        activity: Params | None = None,
    ) -> Update:
        return Update(
            round=instruction.round,
            client=client,
            base=instruction.base,
            examples=len(self.clients[client]),
            steps=result.steps,
            samples=result.samples,
            predictions=result.predictions,
            loss=result.loss,
            params=subtract(trained, instruction.params),
            proxy_version=version,
            activity=activity or {},
        )

    def _bring_up_to_date(self, instruction: Instruction) -> int:
        """The version of the proxy that is trained on."""
        if self.proxy is None:
            return 0
        try:
            since, number = instruction.proxy_since, instruction.proxy_version
            self.proxy.receive(instruction.proxy, since=since, number=number)
        except StaleProxyError:
            if not self.trains_stale:
                raise
        return self.proxy.number

    def fit(
        self,
        indices: np.ndarray,
        *,
        client: str,
        round: int,  # noqa: A002 - the field's word
        learning_rate: float,
        max_steps: int | None = None,
    ) -> LocalResult:
        """Trains the tunable in place on some examples; all randomness is keyed by (seed, round, client).

        Args:
            indices: into ``examples``.
            client: key of the random choices.
            round: key of the random choices.
            learning_rate: constant during this call.
            max_steps: in place of the recipe's ``local`` budget.
        """
        plan = self._plan(len(indices), client, round, max_steps)
        batches = (
            {name: tensor.to(self.device) for name, tensor in batch.items()}
            for batch in self._batches(indices, plan, client, round)
        )
        with torch_seed(self.seed, "dropout", round=round, client=client):
            return train_locally(
                self.tunable,
                self.task,
                batches,
                self.local,
                learning_rate=learning_rate,
                gradient_rule=self.gradient_rule,
            )

    def _plan(self, count: int, client: str, round: int, max_steps: int | None = None) -> list[np.ndarray]:  # noqa: A002
        return batch_plan(
            count,
            self.local.batch_size,
            epochs=self.local.epochs,
            max_steps=max_steps or self.local.max_steps,
            generator=numpy_generator(self.seed, "batches", round=round, client=client),
        )

    def _batches(self, indices: np.ndarray, plan: Sequence[np.ndarray], client: str, round: int) -> Iterator[Batch]:  # noqa: A002
        """The batches of a plan, on the CPU."""
        collate = self.task.collate(self.processor, derive_seed(self.seed, "masks", round=round, client=client))
        for step in plan:
            if self.profile is not None:
                self.profile.tokens += int(self.examples.lengths[indices[step]].sum())
            yield collate(self.examples.take(indices[step]))


def _line(error: Exception) -> str:
    return line(f"{type(error).__name__}: {error}".splitlines()[0])
