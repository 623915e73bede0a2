"""Directions and walks against Philox read bit by bit, and with other numbers of threads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedfm.clients import directions
from fedfm.clients.directions import Leg, direction_base, shift, walk
from fedfm.params import Params, digest
from tests.started import finish

SHAPES = {"b": (300,), "a": (7, 5), "c": (), "d": (2, 200)}
STARTS = {"a": 0, "b": 256, "c": 768, "d": 1024}
"""The first coordinate of each tensor in a direction: in the order of the names, whole blocks of 256."""


def params() -> Params:
    return {name: torch.randn(shape, generator=torch.Generator().manual_seed(3)) for name, shape in SHAPES.items()}


def sign(key: tuple[int, int], place: int) -> float:
    """The sign of one coordinate: a bit of the stream, four words of 64 bits a count."""
    words = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=place // 256).random_raw(4)
    return 1.0 if int(words[place % 256 // 64]) >> place % 64 & 1 else -1.0


def signs(key: tuple[int, int]) -> Params:
    return {
        name: torch.tensor([sign(key, STARTS[name] + place) for place in range(tensor.numel())]).view(tensor.shape)
        for name, tensor in params().items()
    }


def moved(start: Params, base: int, lengths: list[float]) -> Params:
    """The walk in plain float64, one direction after the other."""
    total = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in start.items()}
    for number, length in enumerate(lengths):
        z = signs((base, number))
        total = {name: before + length * z[name].double() for name, before in total.items()}
    return {name: (tensor.double() - total[name]).float() for name, tensor in start.items()}


def lengths(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_a_walk_is_the_sum_of_its_directions_to_the_bit() -> None:
    steps = lengths(0.25, 0.0, -1e-3, 0.7)
    found = dict(walk(params(), [Leg(9, steps)]))
    assert list(found) == ["a", "b", "c", "d"]
    assert digest(found) == digest(moved(params(), 9, steps.tolist()))


def test_signs_are_balanced_and_differ_between_directions() -> None:
    one, other = (dict(walk({"w": torch.zeros(100_000)}, [Leg(base, lengths(-1.0))]))["w"] for base in (1, 2))
    assert set(one.unique().tolist()) == {-1.0, 1.0}
    assert abs(one.mean()) < 0.02
    assert abs((one * other).mean()) < 0.02
    assert direction_base(0) != direction_base(1) != direction_base(1, round=1)


def test_a_shift_goes_along_the_same_signs() -> None:
    held = {name: nn.Parameter(tensor.clone()) for name, tensor in reversed(params().items())}
    shift(held, (9, 1), -0.5)
    expected = {name: tensor - 0.5 * signs((9, 1))[name] for name, tensor in params().items()}
    assert digest({name: parameter.detach() for name, parameter in held.items()}) == digest(expected)


def test_a_walk_continues_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    legs = [Leg(5, lengths(0.3, -0.1)), Leg(6, lengths(0.2))]
    whole = dict(walk(params(), legs))
    assert digest(dict(walk(dict(walk(params(), legs[:1])), legs[1:]))) == digest(whole)
    monkeypatch.setattr(directions, "PIECE", 256)
    monkeypatch.setattr(directions, "_AT_ONCE", 8)
    assert digest(dict(walk(params(), legs))) == digest(whole)


def say_where(threads: int) -> None:
    torch.set_num_threads(threads)
    start = {"w": torch.linspace(-1, 1, 200_001), "v": torch.ones(300, 100)}
    legs = [Leg(direction_base(7), torch.linspace(-0.1, 0.1, 40)), Leg(direction_base(7, round=1), lengths(0.05))]
    found = dict(walk(start, legs))
    held = {name: nn.Parameter(tensor) for name, tensor in found.items()}
    shift(held, (3, 4), 0.01)
    print(json.dumps([torch.get_num_threads(), digest({name: tensor.detach() for name, tensor in held.items()})]))


def test_processes_with_one_and_two_threads_get_the_same_bits() -> None:
    (one, first), (two, second) = (json.loads(finish(say_where, threads).output) for threads in (1, 2))
    assert (one, two, first) == (1, 2, second)
