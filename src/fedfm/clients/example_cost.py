"""What training on one example costs: operations and kept activations, as functions of the example's length.

Both are measured on single examples of up to three lengths, by counting what torch dispatches. In a transformer they
are polynomials of degree 2 in the number of tokens (attention is quadratic), so three lengths decide them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count, shape_wrapper

from fedfm.clients.recompute import recomputing
from fedfm.clients.settings import LocalSettings
from fedfm.data.examples import Examples
from fedfm.models.tunable import Tunable
from fedfm.tasks.base import Batch, Task

LONGEST = 128
"""Tokens of the longest example that is measured, where shorter ones exist."""

POINTS = 3
"""Lengths that are measured."""

SHAPED_LIKE = "input_ids"
"""The input whose second dimension is the number of tokens; images have none, and all cost the same."""


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


def _by_shape(formula: Callable[..., int]) -> Callable[..., int]:
    """A formula of shapes as one of tensors."""
    wrapped: Callable[..., int] = shape_wrapper(formula)  # type: ignore[no-untyped-call]
    return wrapped


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # attention on CPUs, which torch's own counter leaves out
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _by_shape(_attention),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _by_shape(_attention_backward),
}
"""Operator → number of operations, from its arguments."""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the operations of what runs in it; torch's `FlopCounterMode` also asks which module they belong to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator and counts it."""
        out = func(*args, **(kwargs or {}))
        if formula := FORMULAS.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


@dataclass(frozen=True)
class ExampleCost:
    """Costs of one example as polynomials in its length, lowest power first.

    Attributes:
        forward: operations of a forward pass; a multiplication and an addition count two.
        backward: operations of a backward pass, through frozen and trained parts.
        kept: bytes of activations that a forward pass keeps for the backward pass.
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    kept: tuple[float, ...]

    def flops(self, lengths: np.ndarray, *, teacher: bool = False) -> np.ndarray:
        """Operations of a training step a single example takes, [N] for ``lengths`` [N].

        Args:
            lengths: tokens of each example.
            teacher: whether a second forward pass gives the outputs to compare with.
        """
        passes = 2 if teacher else 1
        total: np.ndarray = passes * _at(self.forward, lengths) + _at(self.backward, lengths)
        return total

    def activation_bytes(self, length: int) -> float:
        """Bytes that are kept for the backward pass of one example of so many tokens."""
        return float(_at(self.kept, np.asarray([length]))[0])


def measure_example_cost(
    tunable: Tunable, task: Task, processor: object, examples: Examples, local: LocalSettings, device: torch.device
) -> ExampleCost:
    """Measures single examples, with their first tokens in place of longer ones; changes nothing.

    Dropout is off. Masked tokens and an algorithm's own terms of the loss are not part of it.

    Args:
        tunable: what a client trains.
        task: gives batches and outputs.
        processor: of the model.
        examples: some of the run's; only their lengths matter.
        local: the recipe's, for `recompute`.
        device: where the tunable is.
    """
    tunable.eval()
    collate = task.collate(processor, 0)
    found: dict[int, tuple[int, int, int]] = {}
    for index in _spread(examples.lengths):
        batch = {name: tensor.to(device) for name, tensor in collate(examples.take([index])).items()}
        found[_length(batch)] = _measure(tunable, task, batch, local)
    lengths = sorted(found)
    forward, backward, kept = (
        tuple(_polynomial(lengths, [found[length][part] for length in lengths])) for part in range(3)
    )
    return ExampleCost(forward, backward, kept)


def _measure(tunable: Tunable, task: Task, batch: Batch, local: LocalSettings) -> tuple[int, int, int]:
    """Operations forward and backward, and bytes kept, of one batch."""
    held = {parameter.untyped_storage().data_ptr() for parameter in tunable.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        for part in (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,):
            storage = part.untyped_storage()
            if storage.data_ptr() not in held:
                kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    trained = [parameter for parameter in tunable.parameters.values() if parameter.requires_grad]
    with torch.enable_grad(), recomputing(tunable, local.recompute):
        forward, backward = _Counter(), _Counter()
        with forward, saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = task.outputs(tunable.model, batch).float().sum()
        with backward:
            torch.autograd.grad(loss, trained, allow_unused=True)
    return forward.total, backward.total, sum(kept.values())


def _spread(lengths: np.ndarray) -> list[int]:
    """Indices of examples of up to three lengths, spread evenly over those up to `LONGEST`."""
    distinct, first = np.unique(lengths, return_index=True)
    few = max(1, int((distinct <= LONGEST).sum()))
    places = np.unique(np.linspace(0, few - 1, POINTS).round().astype(int))
    return [int(first[place]) for place in places]


def _length(batch: Batch) -> int:
    """Tokens of a batch; 1 for images."""
    return int(batch[SHAPED_LIKE].shape[1]) if SHAPED_LIKE in batch else 1


def _polynomial(lengths: Sequence[int], values: Sequence[int]) -> list[float]:
    """The polynomial through these points, lowest power first; through one point, in proportion to the length."""
    if len(lengths) == 1:
        return [0.0, values[0] / lengths[0]]
    powers = np.vander(np.asarray(lengths, dtype=np.float64), increasing=True)
    return [float(value) for value in np.linalg.solve(powers, np.asarray(values, dtype=np.float64))]


def _at(polynomial: Sequence[float], lengths: np.ndarray) -> np.ndarray:
    x = np.asarray(lengths, dtype=np.float64)
    total: np.ndarray = sum((factor * x**power for power, factor in enumerate(polynomial)), np.zeros_like(x))
    return total


def training_bytes(tunable: Tunable, local: LocalSettings, kept: float) -> int:
    """An estimate of the memory that a client's training needs at its peak.

    It has the model with its frozen weights, and of the trained parameters the values received, their gradients and the
    optimiser's moments; and what a step keeps for its backward pass. The program itself is not in it.

    Args:
        tunable: what the client trains.
        local: how.
        kept: bytes of activations of one step.
    """
    weights = sum(tensor.nbytes for tensor in (*tunable.model.parameters(), *tunable.model.buffers()))
    trained = sum(parameter.nbytes for parameter in tunable.parameters.values())
    moments = local.moments
    return math.ceil(weights + (2 + moments) * trained + kept)
