"""Distillation: clients send predictions on public texts, and the server fits its model to their mean.

Lin et al., Ensemble Distillation for Robust Model Fusion in Federated Learning (FedDF), arXiv:2006.07242. With the
cohort S and the logits z_c [N, K] of client c on the round's N public examples,

    z* = 1/|S| Σ_c z_c,      minimise  T²/N · Σ_n KL( softmax(z*_n / T) ‖ softmax(z_n / T) )

over the student's tunable, by AdamW with a cosine schedule. Here clients send logits in place of parameters, as in
FedMD (Li and Wang, arXiv:1910.03581), so that they may have backbones of their own (`federation.models`). The server
sends texts, and each client reads them with its own tokenizer.

- A client with the server's backbone starts each round from the student, as in FedDF.
- A client with another backbone keeps its tunable. From round 2 on it gets the student's logits on the round's texts
  and learns from them before its local training (the digest of FedMD).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from fedfm import capabilities
from fedfm.clients.distilling import LOGITS, PREDICTIONS, PUBLIC, TEACHER, Distilling
from fedfm.data.packed_texts import pack
from fedfm.errors import RecipeError
from fedfm.protocols.base import Protocol, State
from fedfm.protocols.io import IO, Ask
from fedfm.randomness import numpy_generator
from fedfm.spec import Spec, TensorSpec

WORK = "predict"


class Distillation(Protocol):
    """Clients send predictions on public texts, and the server fits its model to their mean (FedDF)."""

    kind: Literal["distillation"] = "distillation"
    """Clients send predictions on public texts, and the server fits its model to their mean (FedDF,
    arXiv:2006.07242)."""
    examples: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Public examples of a round, N, drawn from `public`."""
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Optimiser steps of the server in a round."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Public examples of a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of AdamW at the first step; it falls to zero along half a cosine."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T, by which logits are divided; a higher temperature counts the unlikely classes more."""
    digest_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 8
    """Steps in which a client with another backbone learns from the student before its local training; 0: it does
    not. Batches, learning rate and temperature are the server's."""

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

    @property
    def public_examples(self) -> int:
        """`examples`."""
        return self.examples

    @property
    def digest(self) -> Distilling:
        """As the server's own, with `digest_steps`."""
        return Distilling(self.digest_steps, self.batch_size, self.learning_rate, self.temperature)

    def returns(self, work: str, classes: int) -> Mapping[str, Spec] | None:
        """Logits of each public example."""
        return {PREDICTIONS: {LOGITS: TensorSpec((self.examples, classes))}}

    def folds(self, cohort: int) -> None:
        """Predictions are averaged."""

    def step(self, state: State, io: IO) -> State:
        """Draw public texts, ask, average the logits, distil."""
        number, cohort = state.round + 1, io.cohort(state.round + 1)
        chosen = numpy_generator(io.seed, "public examples", round=number).permutation(len(io.public))
        texts = io.public.take(np.sort(chosen[: self.examples]))
        student = io.student
        examples = student.encode(texts)
        student.evaluator.tunable.write(state.params)
        present = student.logits(examples)
        asks = self._asks(state, io, cohort, {PUBLIC: pack(texts)}, present)
        total, weight = torch.zeros(present.shape, dtype=torch.float64), 0
        for update in io.ask(asks, copies=cohort):
            copies = update.contribution.copies
            total += copies * update.groups[PREDICTIONS][LOGITS].double()
            weight += copies
        if not weight:  # a Poisson cohort may be empty
            return State(number, state.params, facts=state.facts)
        settings = Distilling(self.steps, self.batch_size, self.learning_rate, self.temperature)
        student.evaluator.tunable.write(state.params)
        try:
            loss = student.learn(examples, (total / weight).float(), settings, round=number)
        except FloatingPointError as error:
            raise RecipeError(
                f"{error} in round {number}; lower it and start a new run", where="protocol.learning_rate"
            ) from error
        return State(number, student.evaluator.tunable.read(), facts={"distillation_loss": loss})

    def figures(self, state: State) -> dict[str, float]:
        """The mean loss of the last round's distillation."""
        return {name: float(value) for name, value in state.facts.items()}

    def _asks(
        self,
        state: State,
        io: IO,
        cohort: Mapping[str, int],
        public: Mapping[str, Mapping[str, torch.Tensor]],
        present: torch.Tensor,
    ) -> dict[str, Ask]:
        """What each client is asked; clients with one backbone follow each other, so that it is loaded once."""
        number, rate = state.round + 1, io.learning_rate(state.round + 1)
        expects = self.returns(WORK, present.shape[1])
        alike = Ask(number, state.params, groups=public, work=WORK, learning_rate=rate, expects=expects)
        taught = {TEACHER: {LOGITS: present}} if number > 1 and self.digest_steps else {}
        other = Ask(number, {}, groups={**public, **taught}, work=WORK, learning_rate=rate, expects=expects)
        order = sorted(cohort, key=lambda client: (io.backbones.get(client, -1), client))
        return {client: other if client in io.backbones else alike for client in order}
