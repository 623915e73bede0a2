"""CreamFL: clients send embeddings of public pairs, and the server learns from what those with each kind say.

Yu et al., Multimodal Federated Learning via Contrastive Representation Ensemble, arXiv:2302.08888. In each round, with
N public pairs of an image and its caption, and the server's embeddings G of both, each of length 1:

- Clients train on what they have, images, texts or pairs, and draw their embeddings of the public images to the G of
  their captions, and the other way round (`fedfm.clients.representations`, `align`).
- They send the embeddings u_c [N, d] of the public sides that they have data of.
- The server combines those of each side, for each pair by how well the client finds the partner (global-local
  contrast): a_c(n) ∝ exp(u_c,n·G_n / τ) / Σ_m exp(u_c,n·G_m / τ), over the clients that have the side, Σ_c a_c(n) = 1.
- It learns from the pairs, and from Σ_c a_c(n)·u_c,n (`distil`).

The paper's clients keep models of their own, with the server's as a larger one; here a client starts each round from
the server's towers of what it has, as in `distillation`, and sends no weights. So the paper's contrast with the
client's own model of the round before (intra-modal) has no counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.algorithms import Algorithm
from fedfm.clients.distilling import PUBLIC, Distilling
from fedfm.clients.representations import OTHER, REPRESENTATIONS, PairReader, Side
from fedfm.clients.work.represent import REPRESENT
from fedfm.data.image_text import CAPTIONS
from fedfm.data.packed_pairs import pack_images, pack_tokens
from fedfm.errors import RecipeError
from fedfm.params import Params
from fedfm.protocols.base import Protocol, State
from fedfm.protocols.io import IO, Ask
from fedfm.randomness import numpy_generator
from fedfm.spec import Spec, TensorSpec, spec_of
from fedfm.views.modalities import Kind

SIDES: Mapping[Kind, tuple[Side, ...]] = {"both": ("image", "text"), "image": ("image",), "text": ("text",)}
"""What a client has → the sides of the public pairs that it embeds."""
PROJECTION = "_projection.weight"
"""End of the name of a tensor [d, …] whose outputs are the embeddings."""


class CreamFL(Protocol):
    """Clients send embeddings of public pairs, and the server's towers learn from them."""

    kind: Literal["creamfl"] = "creamfl"
    """Clients send embeddings of public images and texts, each of what it has, and the server's towers learn from
    their combination (CreamFL, arXiv:2302.08888)."""
    examples: Annotated[int, Field(ge=2, le=1_000_000)] = 256
    """Public pairs of a round, N, drawn from `public`."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 0.1
    """τ of the clients' contrast and of their weights; the lower, the more the best client of each pair counts."""
    align_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 8
    """Steps in which a client draws its embeddings to those of the server's other tower, after its local training; 0:
    it does not. Batches and learning rate are the server's."""
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Optimiser steps of the server in a round."""
    batch_size: Annotated[int, Field(ge=2, le=100_000)] = 32
    """Public pairs of a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Of AdamW at the first step; it falls to zero along half a cosine."""
    weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """λ: weight of the squared distance to what the clients say, beside the task's loss of the public pairs."""

    works: ClassVar[tuple[str, ...]] = (REPRESENT,)
    serves_kinds: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.TWO_TOWERS: "clients embed public images and their captions",
        capabilities.BACKBONE_WEIGHTS: "the server's towers learn themselves",
        capabilities.ONE_BACKBONE: "public pairs travel as the inputs of one model",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.TUNABLE_UPDATES: "clients send embeddings",
        capabilities.UPDATE_PATH: "clients send embeddings",
        capabilities.INDIVIDUAL_UPDATES: "clients send embeddings",
        capabilities.SERVER_STEP: "the server's step is distillation",
    }

    @property
    def public_examples(self) -> int:
        """`examples`."""
        return self.examples

    @property
    def digest(self) -> Distilling:
        """As the server's own, with `align_steps`."""
        return self._distilling(self.align_steps)

    def answers(self, work: str, classes: int, spec: Spec) -> Mapping[str, Spec]:
        """Embeddings of both sides of each public pair.

        Raises:
            RecipeError: what is tuned does not say how long an embedding is.
        """
        sizes = [tensor.shape[0] for name, tensor in spec.items() if name.endswith(PROJECTION)]
        if not sizes:
            raise RecipeError(
                "clients send embeddings, so the projections to the common space must be tuned: set tune.head=true, or "
                "tune.kind=full",
                where="tune",
            )
        return self._expected(SIDES["both"], sizes[0])

    def start(self, params: Params, algorithm: Algorithm) -> State:
        """As ever; raises as `answers`."""
        self.answers(REPRESENT, 0, spec_of(params))
        return super().start(params, algorithm)

    def folds(self, cohort: int) -> None:
        """Embeddings are combined pair by pair."""

    def step(self, state: State, io: IO) -> State:
        """Draw pairs, embed them, ask, combine, learn."""
        number, cohort = state.round + 1, io.cohort(state.round + 1)
        rows = self._rows(io, number)
        packed: dict[Side, dict[str, Tensor]] = {
            "image": pack_images([row["pixel_values"] for row in rows]),
            "text": pack_tokens([np.asarray(row[CAPTIONS][0]).tolist() for row in rows]),
        }
        reader = PairReader(io.student.evaluator)
        tunable = reader.evaluator.tunable
        tunable.write(state.params)
        anchors = reader.represent({**packed["image"], **packed["text"]})
        said = {side: CrossModalMean(anchors[OTHER[side]], self.temperature) for side in OTHER}
        for update in io.ask(self._asks(state, io, cohort, packed, anchors), copies=cohort):
            for side, found in update.groups[REPRESENTATIONS].items():
                said["image" if side == "image" else "text"].add(found, update.contribution.copies)
        combined = {side: mean for side, total in said.items() if (mean := total.result()) is not None}
        if not combined:  # a Poisson cohort may be empty
            return State(number, state.params, state.server, state.facts)
        tunable.write(state.params)
        try:
            loss = reader.distil(rows, combined, self._distilling(self.steps), self.weight, round=number)
        except FloatingPointError as error:
            raise RecipeError(
                f"{error} in round {number}; lower it and start a new run", where="protocol.learning_rate"
            ) from error
        return State(number, tunable.read(), {}, {"distillation_loss": loss})

    def figures(self, state: State) -> dict[str, float]:
        """The mean loss of the server's steps in the last round."""
        return {name: float(value) for name, value in state.facts.items()}

    def _distilling(self, steps: int) -> Distilling:
        return Distilling(steps, self.batch_size, self.learning_rate, self.temperature)

    def _rows(self, io: IO, number: int) -> list[dict[str, Any]]:
        """The public pairs of a round, a keyed choice."""
        chosen = numpy_generator(io.seed, "public examples", round=number).permutation(len(io.public_pairs))
        return io.public_pairs.take(np.sort(chosen[: self.examples]))

    def _expected(self, sides: Sequence[Side], size: int) -> Mapping[str, Spec]:
        return {REPRESENTATIONS: {side: TensorSpec((self.examples, size)) for side in sides}}

    def _asks(
        self,
        state: State,
        io: IO,
        cohort: Mapping[str, int],
        packed: Mapping[Side, Mapping[str, Tensor]],
        anchors: Mapping[Side, Tensor],
    ) -> dict[str, Ask]:
        """What each client is asked: those that have the same share one message."""
        number, size = state.round + 1, anchors["image"].shape[1]
        asks = {}
        for kind, sides in SIDES.items():
            groups: dict[str, dict[str, Tensor]] = {PUBLIC: {}}
            for side in sides:
                groups[PUBLIC] |= packed[side]
            if self.align_steps:
                groups[REPRESENTATIONS] = {str(OTHER[side]): anchors[OTHER[side]] for side in sides}
            asks[kind] = Ask(
                number,
                state.params,
                groups=groups,
                work=REPRESENT,
                learning_rate=io.learning_rate(number),
                expects=self._expected(sides, size),
            )
        return {client: asks[io.kind(client)] for client in cohort}


class CrossModalMean:
    """The running mean of clients' embeddings of one side, in float64, each weighted by how well it finds its partner.

    A softmax over clients of log p is p over its sum, so no client's embeddings have to wait for the others'.
    """

    def __init__(self, anchors: Tensor, temperature: float) -> None:
        """An empty mean.

        Args:
            anchors: the server's embeddings of the other side, [N, d].
            temperature: τ.
        """
        self._anchors, self._temperature = anchors.double(), temperature
        self._total, self._weight = torch.zeros_like(self._anchors), self._anchors.new_zeros(len(anchors), 1)

    def add(self, found: Tensor, copies: int = 1) -> None:
        """Adds a client's embeddings, [N, d]; they count as of length 1."""
        own = torch.nn.functional.normalize(found.double(), dim=-1)
        chances = (own @ self._anchors.T / self._temperature).softmax(-1).diagonal()[:, None] * copies
        self._total += chances * own
        self._weight += chances

    def result(self) -> Tensor | None:
        """float32 [N, d]; None where nothing was added."""
        if not bool((self._weight > 0).all()):
            return None
        return (self._total / self._weight).float()
