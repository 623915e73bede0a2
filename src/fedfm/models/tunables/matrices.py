"""The base class of tunables of chosen weight matrices."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from transformers.pytorch_utils import Conv1D

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.tunables.base import WithHead
from fedfm.models.tunables.targets import matching, resolve, within

Matrices = dict[str, nn.Linear | Conv1D]
"""Modules by name."""


class OfMatrices(WithHead):
    """Settings of tunables that change weight matrices.

    Attributes:
        reads_transposed: whether PEFT's layers accept matrices that are stored ``[in, out]`` (GPT-2).
    """

    in_blocks: ClassVar[bool] = True
    reads_transposed: ClassVar[bool] = True

    target_modules: str | list[str] = "attention"
    """Matrices to adapt: `attention` (query, key, value and output of every block), `ffn`, `all`, a regular expression
    for whole module names, or a list of name endings."""

    @property
    def needs_all_neurons(self) -> bool:
        """Whether it changes FFN matrices; the change of a smaller matrix is no part of a larger one's."""
        return self.target_modules in ("ffn", "all")

    def matrices(self, backbone: Backbone, task_type: str | None) -> tuple[Matrices, dict[str, Any]]:
        """The matrices to adapt, and what all of PEFT's configs for matrices have.

        Raises:
            RecipeError: no module matches ``target_modules``; at ``tune.kind``, PEFT cannot adapt those that do.
        """
        chosen = resolve(self.target_modules, backbone)
        modules = matching(chosen, backbone)
        stored = [name for name, module in modules.items() if isinstance(module, Conv1D)]
        if stored and not self.reads_transposed:
            raise RecipeError(
                f"peft's `{self.kind}` does not adapt matrices that are stored transposed ({stored[0]}); use lora",
                where="tune.kind",
            )
        return modules, {
            "target_modules": within(chosen, modules, backbone),
            "modules_to_save": self.head_modules(backbone) or None,
            "task_type": self.peft_task_type(task_type),
        }


def size_of(module: nn.Linear | Conv1D) -> tuple[int, int]:
    """(out, in) of a matrix, whichever way it is stored."""
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)
