"""A worker: clients' side of a round. One backbone in memory; each client's tunable is swapped in and trained."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from fedfm.clients.settings import LocalSettings
from fedfm.clients.training import GradientRule, LocalResult, train_locally
from fedfm.data.batches import batch_plan
from fedfm.data.examples import Examples
from fedfm.models.tunable import Tunable
from fedfm.params import subtract
from fedfm.proxies.activity import Activity, counting, to_params
from fedfm.proxies.versions import HeldProxy, StaleProxyError
from fedfm.randomness import derive_seed, numpy_generator, torch_seed
from fedfm.tasks.base import Batch, Task
from fedfm.updates import Failure, Instruction, Update, decode_instruction, encode_update


@dataclass(frozen=True)
class Worker:
    """Trains the clients whose data it can reach, one at a time.

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
    proxy: HeldProxy | None = None
    trains_stale: bool = False

    def train(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Failure]]:
        """Answers each client's instruction in turn: the bytes of an update, or why there is none.

        Args:
            messages: client id → instruction; clients alike share one object, which is decoded once.

        Raises:
            MessageError: an instruction cannot be read.
        """
        read: tuple[bytes, Instruction] | None = None
        for client, message in messages.items():
            if read is None or read[0] is not message:
                read = message, decode_instruction(message)
            yield client, self._answer(client, read[1])

    def _answer(self, client: str, instruction: Instruction) -> bytes | Failure:
        try:
            return encode_update(self._train(client, instruction))
        except Exception as error:  # one client's failure, whatever it is, must not end the others' round
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if isinstance(error, torch.OutOfMemoryError):
                reason = "out of memory: lower local.batch_size or data.max_length"
            return Failure(client, reason, traceback.format_exc(), stale=isinstance(error, StaleProxyError))

    def _train(self, client: str, instruction: Instruction) -> Update:
        version = self._bring_up_to_date(instruction)
        self.tunable.write(instruction.params)
        with ExitStack() as stack:
            counted = stack.enter_context(self._counting()) if instruction.count_activity else {}
            result = self.fit(
                self.clients[client], client=client, round=instruction.round, learning_rate=instruction.learning_rate
            )
        return Update(
            round=instruction.round,
            client=client,
            base=instruction.base,
            examples=len(self.clients[client]),
            steps=result.steps,
            samples=result.samples,
            loss=result.loss,
            params=subtract(self.tunable.read(), instruction.params),
            proxy_version=version,
            activity=to_params(counted),
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

    def _counting(self) -> AbstractContextManager[dict[str, Activity]]:
        return counting(self.tunable.model, self.proxy.blocks if self.proxy else [])

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
        plan = batch_plan(
            len(indices),
            self.local.batch_size,
            epochs=self.local.epochs,
            max_steps=max_steps or self.local.max_steps,
            generator=numpy_generator(self.seed, "batches", round=round, client=client),
        )
        collate = self.task.collate(self.processor, derive_seed(self.seed, "masks", round=round, client=client))

        def batches() -> Iterator[Batch]:
            for step in plan:
                batch = collate(self.examples.take(indices[step]))
                yield {name: tensor.to(self.device) for name, tensor in batch.items()}

        with torch_seed(self.seed, "dropout", round=round, client=client):
            return train_locally(
                self.tunable,
                self.task,
                batches(),
                self.local,
                learning_rate=learning_rate,
                gradient_rule=self.gradient_rule,
            )
