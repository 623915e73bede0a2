"""Distillation: clients send predictions on public texts, and models learn from what all of them say.

With the cohort S, the logits z_c [N, K] of client c on the round's N public examples, and their combination z*
(`fedfm.protocols.combinations`), the server fits its model, the student, to z* over its tunable, by AdamW with a cosine
schedule. `fedfm.clients.distilling` has the losses. Its settings give four methods of the literature:

- FedDF (Lin et al., arXiv:2006.07242): `combine.kind: logits`, `loss: kl`. FedDF sends parameters and computes the
  logits at the server; here clients send logits, so that they may have backbones of their own (`federation.models`).
- FedMD (Li and Wang, arXiv:1910.03581): `digest_from: clients`, all clients in `federation.models`. Clients learn what
  the clients said in the round before, and then train on their own data; the student affects no client.
- DS-FL (Itahara et al., arXiv:2008.06180): as FedMD, with `combine.kind: sharpened`.
- Fed-ET (Cho et al., arXiv:2204.12703), its weighted consensus: `weights: variance`.

The server sends texts, and each client reads them with its own tokenizer.

- A client with the server's backbone starts each round from the student, as in FedDF.
- A client with another backbone keeps its tunable. From round 2 on it learns from logits on public texts before its
  local training (the digest of FedMD): the student's on the round's texts, or the combination of the round before, with
  the texts of that round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from fedfm import capabilities
from fedfm.clients.distilling import LOGITS, PREDICTIONS, PUBLIC, TEACHER, Distilling
from fedfm.data.packed_texts import pack
from fedfm.errors import RecipeError
from fedfm.protocols.base import Protocol, ServerModel, State
from fedfm.protocols.combinations import WEIGHTS, AnyPredictionAverage, Consensus, Logits
from fedfm.protocols.io import IO, Ask
from fedfm.randomness import numpy_generator
from fedfm.settings import Capabilities
from fedfm.spec import Spec, TensorSpec

WORK = "predict"
CONSENSUS, CONSENSUS_ROUND = "consensus", "consensus_round"
"""What clients said in the last round that had answers, and the number of that round, in the protocol's state."""


class Teacher(ServerModel):
    """The recipe's ``protocol.teacher``."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Its weight in the combination; the clients together have the rest."""


class Distillation(Protocol):
    """Clients send predictions on public texts, and models learn from their combination (FedDF, FedMD, DS-FL)."""

    kind: Literal["distillation"] = "distillation"
    """Clients send predictions on public texts, and models learn from their combination (FedDF, arXiv:2006.07242;
    FedMD, arXiv:1910.03581; DS-FL, arXiv:2008.06180)."""
    examples: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Public examples of a round, N, drawn from `public`."""
    combine: AnyPredictionAverage = Logits()
    """How the clients' predictions become one."""
    weights: Literal["uniform", "examples", "variance"] = "uniform"
    """What a client counts by: all alike, by its training `examples`, or, for each public example, by the `variance` of
    its logits over the classes (Fed-ET, arXiv:2204.12703)."""
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Optimiser steps of the server in a round."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Public examples of a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of AdamW at the first step; it falls to zero along half a cosine."""
    loss: Literal["kl", "mse"] = "kl"
    """`kl`: the divergence of probabilities; `mse`: the squared error of logits."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T, by which logits are divided for `kl`; a higher temperature counts the unlikely classes more."""
    digest_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 8
    """Steps in which a client with another backbone learns before its local training; 0: it does not. Batches, learning
    rate, loss and temperature are the server's."""
    digest_from: Literal["student", "clients"] = "student"
    """What such a client learns from: the `student`'s predictions on the round's texts, or what the `clients` said in
    the round before, with the texts of that round."""
    teacher: Teacher | None = None
    """A frozen model at the server, whose predictions on the public texts are mixed with the clients'; null: none."""

    works: ClassVar[tuple[str, ...]] = (WORK,)
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.LABELS: "clients predict one class of each public example",
        capabilities.TEXT_INPUTS: "the public examples of a round travel as texts",
        capabilities.BACKBONE_WEIGHTS: "the student is the backbone itself",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.TUNABLE_UPDATES: "clients send predictions",
        capabilities.UPDATE_PATH: "clients send predictions",
        capabilities.INDIVIDUAL_UPDATES: "clients send predictions",
        capabilities.SERVER_STEP: "the server's step is distillation",
    }

    @model_validator(mode="after")
    def _logits_are_compared(self) -> Self:
        if self.loss == "mse" and not isinstance(self.combine, Logits):
            raise ValueError(
                f"loss: `mse` compares logits, but `combine.kind: {self.combine.kind}` gives probabilities; use "
                "loss=kl, or combine.kind=logits"
            )
        return self

    def capabilities(self) -> Capabilities:
        """Also what weights by examples rely on."""
        said = super().capabilities()
        if self.weights != "examples":
            return said
        needs = {**said.needs, capabilities.EXAMPLE_COUNTS: "`protocol.weights: examples` weighs by them; use uniform"}
        return Capabilities(needs, said.gives, said.takes)

    @property
    def public_examples(self) -> int:
        """`examples`."""
        return self.examples

    @property
    def public_sent(self) -> int:
        """The round's, and those of the round before where clients learn from them."""
        return self.examples * (2 if self._sends_consensus else 1)

    @property
    def digest(self) -> Distilling:
        """As the server's own, with `digest_steps`."""
        return self._distilling(self.digest_steps)

    @property
    def server_model(self) -> ServerModel | None:
        """`teacher`."""
        return self.teacher

    def returns(self, work: str, classes: int) -> Mapping[str, Spec] | None:
        """Logits of each public example."""
        return {PREDICTIONS: {LOGITS: TensorSpec((self.examples, classes))}}

    def folds(self, cohort: int) -> None:
        """Predictions are averaged."""

    def step(self, state: State, io: IO) -> State:
        """Draw public texts, ask, combine the logits, distil."""
        number, cohort = state.round + 1, io.cohort(state.round + 1)
        texts, student = self._texts(io, number), io.student
        examples = student.encode(texts)
        asks = self._asks(state, io, cohort, texts)
        consensus = Consensus(self.combine, WEIGHTS[self.weights])
        for update in io.ask(asks, copies=cohort):
            consensus.add(update.groups[PREDICTIONS][LOGITS], update.contribution)
        taught = consensus.logits(*self._teacher_says(io, texts))
        if taught is None:  # a Poisson cohort may be empty
            return State(number, state.params, state.server, state.facts)
        student.evaluator.tunable.write(state.params)
        try:
            loss = student.learn(examples, taught, self._distilling(self.steps), round=number)
        except FloatingPointError as error:
            raise RecipeError(
                f"{error} in round {number}; lower it and start a new run", where="protocol.learning_rate"
            ) from error
        facts = {"distillation_loss": loss, CONSENSUS_ROUND: number}
        said = {CONSENSUS: {LOGITS: taught}} if self._sends_consensus else {}
        return State(number, student.evaluator.tunable.read(), said, facts)

    def figures(self, state: State) -> dict[str, float]:
        """The mean loss of the last round's distillation."""
        return {name: float(value) for name, value in state.facts.items() if name != CONSENSUS_ROUND}

    @property
    def _sends_consensus(self) -> bool:
        return self.digest_from == "clients" and self.digest_steps > 0

    def _distilling(self, steps: int) -> Distilling:
        return Distilling(steps, self.batch_size, self.learning_rate, self.temperature, self.loss)

    def _texts(self, io: IO, number: int) -> list[list[str]]:
        """The public texts of a round, a keyed choice."""
        chosen = numpy_generator(io.seed, "public examples", round=number).permutation(len(io.public))
        return io.public.take(np.sort(chosen[: self.examples]))

    def _teacher_says(self, io: IO, texts: list[list[str]]) -> tuple[torch.Tensor | None, float]:
        """Logits of the server's teacher, and its share."""
        if self.teacher is None:
            return None, 0.0
        teacher = io.server_model
        return teacher.logits(teacher.encode(texts)), self.teacher.share

    def _asks(self, state: State, io: IO, cohort: Mapping[str, int], texts: list[list[str]]) -> dict[str, Ask]:
        """What each client is asked; clients with one backbone follow each other, so that it is loaded once."""
        number, rate, public = state.round + 1, io.learning_rate(state.round + 1), {PUBLIC: pack(texts)}
        expects = self.returns(WORK, len(io.student.evaluator.labels))
        alike = Ask(number, state.params, groups=public, work=WORK, learning_rate=rate, expects=expects)
        taught = self._lesson(state, io, texts)
        other = Ask(number, {}, groups={**public, **taught}, work=WORK, learning_rate=rate, expects=expects)
        order = sorted(cohort, key=lambda client: (io.backbones.get(client, -1), client))
        return {client: other if client in io.backbones else alike for client in order}

    def _lesson(self, state: State, io: IO, texts: list[list[str]]) -> dict[str, dict[str, torch.Tensor]]:
        """What a client with another backbone learns from before its local training."""
        if CONSENSUS_ROUND not in state.facts or not self.digest_steps:
            return {}
        if self._sends_consensus:
            before = self._texts(io, int(state.facts[CONSENSUS_ROUND]))
            return {TEACHER: {LOGITS: state.server[CONSENSUS][LOGITS], **pack(before)}}
        io.student.evaluator.tunable.write(state.params)
        return {TEACHER: {LOGITS: io.student.logits(io.student.encode(texts))}}
