"""The gradient of each example of a batch, in one pass: a stack in which each example has a row of its own.

All rows have the same values, those of the tunable. The gradient by a row is then that of the row's example alone,
exactly and for every layer that can be stacked, without a rule for each type of layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedfm.models.stacked.layout import Layout, UnstackableError
from fedfm.models.stacked.tunable import StackedLayers
from fedfm.params import Params


@dataclass(frozen=True)
class ExampleLayout(Layout):
    """One example a row; a tensor that is not divided by examples is refused, also where its size would allow it."""

    def sizes(self, x: Tensor) -> tuple[int, ...]:
        """The number of vectors of ``x`` that belong to each example.

        Args:
            x: ``[B, ..., d]``.

        Raises:
            UnstackableError: the first dimension does not count examples, so that a row's gradient would not be that of
                one example: a prompt that all share, relative positions, tokens that are routed to experts.
        """
        if x.ndim < 2 or len(x) != self.clients:
            raise UnstackableError(
                f"a trained layer reads a tensor of shape {tuple(x.shape)}, which is not divided by the {self.clients} "
                "examples of the batch"
            )
        return (x.shape[1:-1].numel(),) * self.clients


class ExampleStack(StackedLayers):
    """The values of a tunable, once for each example.

    Raises:
        UnstackableError: a trained parameter lies in a layer that has no stacked form.
    """

    def begin(self, examples: int) -> None:
        """Prepares a batch: its layers read the present values of the tunable."""
        values = [parameter.detach() for parameter in self._parameters.values()]
        rows = (value.expand(examples, *value.shape) for value in values)  # no copies
        self.install(ExampleLayout((1,) * examples), rows)

    def of_examples(self, loss: Tensor) -> Params:
        """The gradients of the sum of the examples' losses, ``[B, ...]`` by name: row i is of example i alone."""
        return dict(zip(self._parameters, self.gradients(loss), strict=True))
