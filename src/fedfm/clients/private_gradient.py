"""The gradient of a private step: clipped for each example, with noise (DP-SGD; `fedfm.privacy.private_steps`).

An example's loss is the mean over its own predictions. The mean over all predictions of a batch, which a plain step
minimises, would not do: its denominator depends on the other examples, so that one example could change the sum by more
than C.

The gradients of a batch's examples come from one pass with a row for each (`ExampleStack`), or from one pass for each
example where that is not exact; both are gradients of one example alone, so that clipping bounds what it changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from fedfm.clients.objective import Objective, StepTotals
from fedfm.clients.profile import phase
from fedfm.models.stacked import ExampleStack, UnstackableError
from fedfm.params import Params
from fedfm.privacy import PrivateSteps
from fedfm.privacy.noise import Noise, SystemNoise
from fedfm.tasks.base import Batch

MOST_VALUES = 2**25
"""Gradients of a pass: as many examples share one as fit into so many values."""

_log = logging.getLogger(__name__)


class PrivateGradient:
    """The clipped and noisy gradient of a Poisson sample; a `StepGradient`."""

    def __init__(
        self,
        objective: Objective,
        steps: PrivateSteps,
        masks: Mapping[str, Tensor],
        *,
        together: bool,
        noise: Callable[[], Noise] = SystemNoise,
    ) -> None:
        """A private gradient.

        Args:
            objective: what each example contributes.
            steps: C, z and the denominator.
            masks: name → bool tensor, the coordinates that change; the others neither count in a norm nor get noise.
            together: whether the examples of a batch share a pass.
            noise: makes the source of noise.
        """
        self._objective, self._steps, self._masks = objective, steps, masks
        parameters = objective.tunable.parameters
        self._moving = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self._rows = max(1, min(round(steps.expected), MOST_VALUES // sum(p.numel() for p in parameters.values())))
        self._stack = ExampleStack(objective.tunable) if together else None
        self._noise = noise()

    def __call__(self, batch: Batch) -> StepTotals:
        """As `StepGradient`; an empty sample is ``{}``. Its loss and size have no noise and are not told."""
        sums = {
            name: torch.zeros(parameter.shape, dtype=torch.float64, device=parameter.device)
            for name, parameter in self._moving.items()
        }
        for gradients in self._of_examples(batch):
            with phase("optimizer"):
                masked = {
                    name: gradients[name] * self._masks[name] if name in self._masks else gradients[name]
                    for name in sums
                }
                add_clipped(sums, masked, self._steps.clip)
        with phase("optimizer"):
            scale = self._steps.noise_multiplier * self._steps.clip
            for name, parameter in self._moving.items():
                noisy = sums[name] + self._noise(parameter.shape).to(parameter.device) * scale
                parameter.grad = (noisy / self._steps.expected).to(parameter.dtype)
        return StepTotals(0.0, 0, round(self._steps.expected))

    def _of_examples(self, batch: Batch) -> Iterator[Params]:
        """The gradients of a batch's examples, ``[b, ...]`` by name, some at a time."""
        count = len(next(iter(batch.values()))) if batch else 0
        for start in range(0, count, self._rows):
            part = {name: tensor[start : start + self._rows] for name, tensor in batch.items()}
            try:
                if self._stack is not None:
                    yield self._together(self._stack, part)
                    continue
            except UnstackableError as error:
                _log.warning("examples are trained one by one: %s", error)
                self._stack = None
            for number in range(len(next(iter(part.values())))):
                yield self._alone({name: tensor[number : number + 1] for name, tensor in part.items()})

    def _together(self, stack: ExampleStack, batch: Batch) -> Params:
        """The gradients of examples by one pass."""
        stack.begin(len(next(iter(batch.values()))))
        with stack.installed():
            with phase("forward"):
                loss = self._means(batch).sum()
            with phase("backward"):
                return stack.of_examples(loss)

    def _alone(self, example: Batch) -> Params:
        """The gradient of one example, ``[1, ...]``."""
        for parameter in self._moving.values():
            parameter.grad = None
        with phase("forward"):
            loss = self._means(example).sum()
        with phase("backward"):
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        return {
            name: (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).unsqueeze(0)
            for name, parameter in self._moving.items()
        }

    def _means(self, batch: Batch) -> Tensor:
        """Each example's mean loss a prediction, ``[B]``; 0 where nothing is predicted."""
        found = self._objective(batch)
        return found.objective / found.predictions.clamp(min=1)


@torch.no_grad()
def add_clipped(sums: Params, gradients: Mapping[str, Tensor], clip: float) -> None:
    """Adds the gradients of examples to sums in place, each scaled to a norm over all tensors of at most ``clip``.

    A gradient that is not finite counts as zero.

    Args:
        sums: float64, ``[...]`` by name.
        gradients: ``[B, ...]`` by name.
        clip: C.
    """
    squares = [
        torch.linalg.vector_norm(gradients[name].reshape(len(gradients[name]), -1), dim=1, dtype=torch.float64).square()
        for name in sums
    ]
    norms = torch.stack(squares).sum(0).sqrt()
    sound = norms.isfinite()
    factors = (clip / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
    for name, total in sums.items():
        rows = gradients[name][sound].to(torch.float64)
        total += torch.tensordot(factors[sound], rows, 1)
