"""Learned soup: the server learns by gradient how much each client's update counts.

Wortsman et al., Model soups, arXiv:2203.05482, learned soup: with the updates Δ_c of a round's clients and one number
α_c for each of them,

    w(α) = w + Σ_c p_c·Δ_c,   p = softmax(α),      minimise  L(w(α))  over α by Adam

Here α_c starts at the logarithm of the client's weight in the recipe's rule, so that no steps give FedAvg. With g the
gradient of L at w(α), ∂L/∂p_c = ⟨g, Δ_c⟩: one backward pass a step, whatever the number of clients.

- `on: validation`: L is the task's loss on `data.validation`, as in the paper.
- `on: public`: there are no labels. With the predictions p_n of N public texts, L = 1/N Σ_n H(p_n) − H(1/N Σ_n p_n).
  Yang et al., AdaMerging, arXiv:2310.02575, learn mixing weights by the first term. Alone it prefers a client that
  predicts one class for everything; the second term asks for all classes (Liang et al., SHOT, arXiv:2002.08546).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Adam

from fedfm import capabilities
from fedfm.aggregation.gathered import Gathered
from fedfm.data.batches import batch_plan
from fedfm.errors import RecipeError
from fedfm.params import Params, add
from fedfm.protocols.base import Protocol, State
from fedfm.protocols.io import IO, Ask
from fedfm.randomness import derive_seed, numpy_generator
from fedfm.settings import Capabilities
from fedfm.tasks.base import Batch
from fedfm.wire import TUNABLE

Objective = Callable[[Tensor, Batch], Tensor]
"""The outputs of the model, and the batch → L."""


class LearnedSoup(Protocol):
    """Star in which the server learns on its own data how much each client's update counts (learned soup)."""

    kind: Literal["learned-soup"] = "learned-soup"
    """A star in which the server learns on its own data how much each client's update counts (model soups,
    arXiv:2203.05482; without labels, AdaMerging, arXiv:2310.02575)."""
    on: Literal["validation", "public"] = "validation"
    """What the mixing weights are learned on: `data.validation` by the task's loss, or the texts of `public` without
    labels."""
    examples: Annotated[int, Field(ge=2, le=1_000_000)] = 256
    """Public examples of a round, N, with `on: public`."""
    steps: Annotated[int, Field(ge=0, le=1_000_000)] = 50
    """Optimiser steps in a round; 0: FedAvg."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Examples of a step. Without labels, the classes of a batch are compared with each other: use several times their
    number."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Of Adam on α."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_BACKBONE: "the server mixes updates of one tunable",
        capabilities.ONE_MODEL: "the server evaluates mixtures of the clients' updates",
        capabilities.WHOLE_VIEWS: "one number weighs a whole update",
        capabilities.INDIVIDUAL_UPDATES: "the server evaluates mixtures of the clients' updates",
        capabilities.LASTING_COORDINATES: "updates are mixed coordinate by coordinate",
        capabilities.BACKBONE_WEIGHTS: "the gradient is that of the backbone itself",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.INDIVIDUAL_UPDATES: "the learned weights take the place of the rule",
        capabilities.SERVER_STEP: "the server's step is the learned mixture",
    }

    def capabilities(self) -> Capabilities:
        """Also what learning without labels relies on."""
        said = super().capabilities()
        if self.on == "validation":
            return said
        needs = {
            capabilities.LABELS: "the classes of predictions are compared (protocol.on: public)",
            capabilities.TEXT_INPUTS: "public data is read as texts (protocol.on: public)",
        }
        return Capabilities({**said.needs, **needs}, said.gives, said.takes)

    @property
    def judges(self) -> bool:
        """Whether it learns on `data.validation`."""
        return self.on == "validation"

    @property
    def public_examples(self) -> int:
        """`examples`, where it learns on them."""
        return self.examples if self.on == "public" else 0

    @property
    def public_sent(self) -> int:
        """Public texts stay at the server."""
        return 0

    def folds(self, cohort: int) -> None:
        """The learned weights take the place of the rule."""

    def step(self, state: State, io: IO) -> State:
        """Ask, keep the updates, learn their weights, add the mixture."""
        number, cohort = state.round + 1, io.cohort(state.round + 1)
        ask = Ask(number, state.params, io.algorithm.sends(state.server), learning_rate=io.learning_rate(number))
        found, known = Gathered(io.spec), dict[str, float]()
        for update in io.ask(dict.fromkeys(cohort, ask), copies=cohort):
            found.add(update.groups[TUNABLE], update.slices)
            known[update.client] = io.rule.weight(update.contribution)
        if not known:  # a Poisson cohort may be empty
            return State(number, state.params, state.server, state.facts)
        alpha = torch.tensor([math.log(weight) for weight in known.values()], dtype=torch.float64)
        weights, loss = self._learned(alpha, found, state.params, number, io)
        shares = dict(zip(known, weights.tolist(), strict=True))
        for client, share in shares.items():
            io.measure("mixing", {"client": client, "weight": share})
        mixture = io.up.finish({TUNABLE: _mixture(found, weights, state.params)}, len(known))[TUNABLE]
        facts = {"largest_weight": max(shares.values()), "smallest_weight": min(shares.values())}
        return State(
            number,
            add(state.params, mixture),
            state.server,
            {**facts, **({} if loss is None else {"mixing_loss": loss})},
        )

    def figures(self, state: State) -> dict[str, float]:
        """The largest and the smallest weight of the last round, and the mean loss of its steps."""
        return {name: float(value) for name, value in state.facts.items()}

    def _learned(
        self, start: Tensor, found: Gathered, params: Params, number: int, io: IO
    ) -> tuple[Tensor, float | None]:
        """Weights p ``[K]`` in float64, and the mean loss of the steps; None without steps."""
        here = io.student.evaluator
        tunable, task = here.tunable, here.task
        alpha = start.clone().requires_grad_()
        optimizer, losses = Adam([alpha], lr=self.learning_rate), list[float]()
        objective = self._objective(io)
        tunable.eval()
        for batch in self._batches(number, io) if self.steps else ():
            tunable.write(add(params, _mixture(found, alpha.detach().softmax(0), params)))
            on_device = {name: tensor.to(here.device) for name, tensor in batch.items()}
            loss = objective(task.outputs(tunable.model, on_device), on_device)
            if not math.isfinite(loss.item()):
                raise RecipeError(
                    f"the loss of the mixture is not finite at step {len(losses) + 1} of round {number}; lower it and "
                    "start a new run",
                    where="protocol.learning_rate",
                )
            losses.append(loss.item())
            names = list(tunable.parameters)
            slopes = torch.autograd.grad(loss, [tunable.parameters[name] for name in names], allow_unused=True)
            along = _along(found, {n: g.cpu() for n, g in zip(names, slopes, strict=True) if g is not None}, alpha)
            optimizer.zero_grad()
            (alpha.softmax(0) @ along).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        mean = math.fsum(losses) / len(losses) if losses else None
        return alpha.detach().softmax(0), mean

    def _objective(self, io: IO) -> Objective:
        task = io.student.evaluator.task
        if self.on == "public":
            return lambda outputs, _: undecided(outputs)

        def loss(outputs: Tensor, batch: Batch) -> Tensor:
            totals, counts = task.losses(outputs, batch)
            return totals.sum() / counts.sum().clamp(min=1)

        return loss

    def _batches(self, number: int, io: IO) -> Iterator[Batch]:
        """The batches of all steps, by keyed shuffles."""
        here = io.student.evaluator
        if self.on == "public":
            order = numpy_generator(io.seed, "public examples", round=number).permutation(len(io.public))
            examples = io.student.encode(io.public.take(np.sort(order[: self.examples])))
        else:
            examples = io.validation
        generator = numpy_generator(io.seed, "soup batches", round=number)
        plan = batch_plan(len(examples), self.batch_size, epochs=1, max_steps=self.steps, generator=generator)
        collate = here.task.collate(here.processor, derive_seed(io.seed, "soup masks", round=number))
        for chosen in plan:
            yield collate(examples.take(chosen))


def undecided(logits: Tensor) -> Tensor:
    """1/N Σ_n H(p_n) − H(1/N Σ_n p_n) for logits ``[N, classes]``, in nats.

    From −log(classes), where predictions are certain and all classes are as frequent, to 0, where all are equal.
    """
    each = logits.log_softmax(-1)
    mean = each.exp().mean(0)
    entropy: Tensor = -(each.exp() * each).sum(-1).mean()
    return entropy + torch.xlogy(mean, mean).sum()


def _mixture(found: Gathered, weights: Tensor, like: Params) -> Params:
    """Σ_c p_c·Δ_c, tensor by tensor; a coordinate that no client trains does not change."""
    mixed = {}
    for name, tensor in like.items():
        parts = [weights @ piece.double().nan_to_num(0.0) for piece in found.pieces(name)]
        mixed[name] = torch.cat([torch.empty(0, dtype=torch.float64), *parts]).to(tensor.dtype).view(tensor.shape)
    return mixed


def _along(found: Gathered, gradients: Params, like: Tensor) -> Tensor:
    """⟨g, Δ_c⟩ of each update, ``[K]``."""
    total = torch.zeros_like(like)
    for name, gradient in gradients.items():
        values, start = gradient.double().flatten(), 0
        for piece in found.pieces(name):
            total += piece.double().nan_to_num(0.0) @ values[start : start + piece.shape[1]]
            start += piece.shape[1]
    return total
