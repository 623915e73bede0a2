"""Relative error of a proxy's hidden states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fedfm.models.families import Block
from fedfm.progress import steps
from fedfm.proxies.trace import Model, hidden_states, real_positions
from fedfm.tasks.base import Batch

Pairs = Sequence[tuple[Block, Block]]
"""Blocks to compare: the backbone's (the teacher's), then the proxy's (the student's)."""


def relative_error(teacher: Tensor, student: Tensor, mask: Tensor | None) -> Tensor:
    """A = ‖T − H‖² / ‖T‖² over real positions, a scalar (arXiv:2404.11536, the distance of layer outputs).

    Args:
        teacher: hidden state T, ``[B, T, d]``.
        student: hidden state H, of the same shape.
        mask: ``[B, T]``, 1 = real; None without padding.

    Raises:
        ValueError: the mask has other positions than the hidden states.
    """
    error, norm = _squares(teacher, student, mask)
    return error / norm


def layer_errors(teacher: Model, student: Model, pairs: Pairs, batches: Iterable[Batch]) -> dict[str, float]:
    """The relative error of each pair over all batches taken together, by the path of the student's block."""
    totals = {block.path: [0.0, 0.0] for _, block in pairs}
    teacher.eval()
    student.eval()
    for batch in steps(batches, "comparing the proxy with the backbone"):
        with torch.no_grad():
            targets = hidden_states(teacher, [block for block, _ in pairs], batch)
            states = hidden_states(student, [block for _, block in pairs], batch)
            for shown, block in pairs:
                squares = _squares(targets[shown.path], states[block.path], batch.get("attention_mask"))
                for place, square in enumerate(squares):
                    totals[block.path][place] += square.item()
    return {path: error / norm if norm else math.nan for path, (error, norm) in totals.items()}


def _squares(teacher: Tensor, student: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """‖T − H‖² and ‖T‖²."""
    target, state = real_positions(teacher, mask), real_positions(student, mask)
    return (target - state).square().sum(), target.square().sum()
