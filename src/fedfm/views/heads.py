"""Heads of several tasks: a client holds the rows of the model's last layer that are outputs of its own tasks.

A client without a task gets zeros in place of that task's head, does not change them and does not return them, so a
head is the mean over the clients that have its task. Caruana, Multitask Learning, Machine Learning 28 (1997),
doi:10.1023/A:1007379606734: shared layers, and outputs of their own for each task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from fedfm.errors import RecipeError
from fedfm.spec import Spec
from fedfm.views.base import Slices, View, whole
from fedfm.views.share import in_head

_COPY = re.compile(r"\.(original_module|modules_to_save\.[^.]+)")
"""What peft adds to the name of a layer of which it keeps a trained copy."""


@dataclass(frozen=True)
class Heads(View):
    """Which outputs each client holds.

    Attributes:
        total: number of outputs of the model.
        outputs: client → slices of them; clients that are absent hold all.
    """

    total: int
    outputs: Mapping[str, tuple[slice, ...]]

    @classmethod
    def of(cls, recipe: Any) -> Self | None:
        """The outputs of the recipe's task, where some clients have only some of them."""
        held = recipe.task.outputs_held
        return None if held is None else cls(held.total, held.of)

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """Rows of the last layer of the head; all of other tensors.

        Raises:
            RecipeError: the head has several matrices with as many rows as the model has outputs.
        """
        if client not in self.outputs:
            return whole(spec)
        rows = torch.cat([torch.arange(part.start, part.stop) for part in self.outputs[client]])
        last = output_tensors({name: tensor.shape for name, tensor in spec.items()}, self.total)
        return {name: (rows,) if name in last else () for name in spec}


def output_tensors(shapes: Mapping[str, tuple[int, ...]], total: int) -> frozenset[str]:
    """Names of the weight and the bias of the last layer of a head, of which each row is an output.

    Args:
        shapes: of tensors by name, those of a model or of its tunable.
        total: number of outputs.

    Raises:
        RecipeError: at ``task.heads``: the head has several matrices with as many rows.
    """
    found = frozenset(name for name, shape in shapes.items() if shape and shape[0] == total and in_head(name))
    layers = {_COPY.sub("", name.rpartition(".")[0]) for name in found}
    if len(layers) > 1:
        raise RecipeError(
            f"the layers {', '.join(sorted(layers))} of the model's head have {total} rows each, so that the heads of "
            "the tasks cannot be told apart; set task.heads=all",
            where="task.heads",
        )
    return found
