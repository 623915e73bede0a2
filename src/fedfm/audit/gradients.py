"""Deep leakage from gradients: an example, recovered from the update of one SGD step on it alone.

Zhu, Liu and Han, Deep Leakage from Gradients, arXiv:1906.08935, Algorithm 1: from random embeddings x′, minimise the
distance between the gradient at x′ and the one that the client sent. Here gradients are divided by their norms, since
clipping hides the norm, and the distance is summed over tensors, each relative to its own norm. The label comes first,
from the sign of the gradient of the classifier's bias (Zhao et al., iDLG, arXiv:2001.02610): p − onehot(label).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedfm.models.tunable import Tunable
from fedfm.tasks.base import Task

MOST_PARAMETERS = 1_000_000
"""Of a model whose inputs are searched for; with a larger one, a search takes long."""
STEPS = 150
RESTARTS = 2
FOUND = 1e-3
"""Distance below which no further restart is made."""


@dataclass(frozen=True)
class Victim:
    """What an attacker who sees one update of a client knows, and the examples that it is about.

    Attributes:
        tunable: of the model that the client holds, with the values from which its step starts.
        task: of the run; a text classifier.
        ids: token ids of some examples, all of one length, int64 ``[N, T]``.
        labels: their classes, int64 ``[N]``.
        classes: their number.
        clip: C, for runs whose server adds noise.
        noise_multiplier: z of that noise; None for runs without.
    """

    tunable: Tunable
    task: Task
    ids: Tensor
    labels: Tensor
    classes: int
    clip: float | None = None
    noise_multiplier: float | None = None

    @property
    def is_small(self) -> bool:
        """Whether inputs are searched for, and not the label alone."""
        return sum(weight.numel() for weight in self.tunable.model.parameters()) <= MOST_PARAMETERS

    @property
    def embeddings(self) -> Tensor:
        """The table of token embeddings, ``[V, d]``."""
        table = cast(Tensor, self.tunable.base_model.get_input_embeddings().weight)
        return table.detach()

    def gradient(self, inputs: Tensor, label: int, *, differentiable: bool = False) -> list[Tensor]:
        """Gradient of the loss of one example with respect to what is tuned; tensors without one are left out.

        Args:
            inputs: its embeddings, ``[1, T, d]``.
            label: its class.
            differentiable: whether the gradient itself is differentiated.
        """
        batch = {
            "inputs_embeds": inputs,
            "attention_mask": torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device),
            "labels": torch.tensor([label], device=inputs.device),
        }
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivative
            losses, _ = self.task.losses(self.task.outputs(self.tunable.model, batch), batch)
            found = torch.autograd.grad(
                losses.sum(), list(self.tunable.parameters.values()), create_graph=differentiable, allow_unused=True
            )
        return [tensor if differentiable else tensor.detach() for tensor in found if tensor is not None]

    def inputs(self, example: int) -> Tensor:
        """The true embeddings of an example, ``[1, T, d]``."""
        return self.embeddings[self.ids[example]][None]


def label_of(gradient: Sequence[Tensor], classes: int) -> int | None:
    """The class of the example behind a gradient; None where no bias of a classifier is tuned."""
    biases = [tensor for tensor in gradient if tensor.shape == (classes,)]
    return int(biases[-1].argmin()) if biases else None


def inverted(victim: Victim, gradient: Sequence[Tensor], label: int, generator: torch.Generator) -> Tensor:
    """Embeddings whose gradient is like the given one, ``[1, T, d]``: the best of some restarts.

    Args:
        victim: what is known; only the length of ``ids`` is used.
        gradient: as `Victim.gradient`, scaled by any factor.
        label: as `label_of`.
        generator: draws where a search starts.
    """
    shape = (1, victim.ids.shape[1], victim.embeddings.shape[1])
    size, spread = _norm(gradient), float(victim.embeddings.std())
    target = [(tensor / size, (tensor / size).square().sum().clamp_min(1e-30)) for tensor in gradient]
    best: tuple[float, Tensor] | None = None
    for _ in range(RESTARTS):
        start = torch.randn(shape, generator=generator, dtype=victim.embeddings.dtype) * spread
        guess = start.to(victim.embeddings.device).requires_grad_()
        search = torch.optim.LBFGS([guess], max_iter=STEPS, history_size=50, line_search_fn="strong_wolfe")

        def distance(guess: Tensor = guess) -> Tensor:
            found = victim.gradient(guess, label, differentiable=True)
            norm = _norm(found)
            parts = [(own / norm - wanted).square().sum() / scale for own, (wanted, scale) in zip(found, target)]  # noqa: B905 - alike
            total = torch.stack(parts).sum()
            (guess.grad,) = torch.autograd.grad(total, guess)
            return total.detach()

        search.step(distance)  # type: ignore[no-untyped-call]
        reached = float(distance())
        if best is None or reached < best[0]:
            best = reached, guess.detach()
        if reached < FOUND:
            break
    if best is None:
        raise ValueError("no search was made")
    return best[1]


def released(
    gradient: Sequence[Tensor], clip: float, noise_multiplier: float, generator: torch.Generator
) -> list[Tensor]:
    """A gradient of norm C with noise N(0, (z·C)²): what a round of this client alone would publish.

    Clipping shortens longer updates to C; a shorter one would be harder to read.
    """
    scale = clip / float(_norm(gradient))

    def noisy(tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
        return scale * tensor + noise_multiplier * clip * noise

    return [noisy(tensor) for tensor in gradient]


def likeness(victim: Victim, guess: Tensor, example: int) -> tuple[float, float]:
    """Mean cosine of guessed and true embeddings, and the share of tokens whose nearest embedding is the true one."""
    cosine = torch.cosine_similarity(guess, victim.inputs(example), dim=-1).mean()
    table = torch.nn.functional.normalize(victim.embeddings, dim=-1)
    nearest = (torch.nn.functional.normalize(guess[0], dim=-1) @ table.T).argmax(-1)
    return float(cosine), float((nearest == victim.ids[example].to(nearest.device)).double().mean())


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()
