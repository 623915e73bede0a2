"""Clipping the norm of a whole update."""

from __future__ import annotations

import pytest
import torch

from fedfm.params import digest
from fedfm.randomness import numpy_generator
from fedfm.updates.stages import Clip

UPDATE = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[-4.0]])}
"""Norm 5."""


def test_a_longer_update_is_scaled_down_by_hand() -> None:
    found, _ = Clip(norm=2.5).encode(UPDATE, {}, numpy_generator(0, "test"))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": [1.5, 0.0], "b": [[-2.0]]}


@pytest.mark.parametrize("norm", [5.0, 100.0])
def test_a_shorter_one_is_unchanged(norm: float) -> None:
    found, _ = Clip(norm=norm).encode(UPDATE, {}, numpy_generator(0, "test"))
    assert digest(found) == digest(UPDATE)
