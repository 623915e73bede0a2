"""Sign by hand, its bytes, and its contraction."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.spec import TensorSpec, empty, spec_of
from fedfm.updates.stages import Sign
from fedfm.wire import stored_bytes

ANY = numpy_generator(0, "test")


def sent(stage: Sign, params: Params) -> tuple[Params, Params]:
    return stage.encode(params, stage.start(spec_of(params)), ANY)


def test_each_tensor_has_its_scale_by_hand() -> None:
    params = {"b": torch.tensor([[1.0, -5.0]]), "a": torch.tensor([2.0, 0.0, -4.0])}
    found, kept = sent(Sign(), params)
    signs, scales = found.values()
    assert signs.tolist() == [0b11010000]  # a: + + −, b: + −
    assert scales.tolist() == [2.0, 3.0]
    arrived = Sign().decode(found, spec_of(params))
    assert {name: tensor.tolist() for name, tensor in arrived.items()} == {"a": [2.0, 2.0, -2.0], "b": [[3.0, -3.0]]}
    assert {name: tensor.tolist() for name, tensor in kept.items()} == {"a": [0.0, -2.0, -2.0], "b": [[-2.0, -2.0]]}


def test_a_block_ends_with_its_tensor() -> None:
    params = {"a": torch.cat([torch.ones(8), torch.full((3,), 5.0)]), "b": torch.full((2,), -7.0)}
    found, kept = sent(Sign(block=8), params)
    assert list(found.values())[1].tolist() == [1.0, 5.0, 7.0]
    assert not any(tensor.any() for tensor in kept.values())


def test_one_bit_a_value_and_four_bytes_a_tensor() -> None:
    spec = {f"layer.{number}": TensorSpec((128, 256)) for number in range(4)}
    sizes = {name.rpartition(".")[2]: tensor.numel for name, tensor in Sign().spec(spec).items()}
    assert sizes == {"signs": 4 * 128 * 256 // 8, "scales": 4}
    assert stored_bytes(empty(Sign().spec(spec))) < stored_bytes(empty(spec)) / 30


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40))
def test_what_is_left_is_never_longer_than_the_update(values: list[float]) -> None:
    # ‖C(x) − x‖² = ‖x‖² − ‖x‖₁²/d, Lemma 8 of arXiv:1901.09847
    params = {"w": torch.tensor(values, dtype=torch.float64)}
    _, kept = sent(Sign(), params)
    expected = params["w"].square().sum() - params["w"].abs().sum() ** 2 / len(values)
    torch.testing.assert_close(kept["w"].square().sum(), expected, rtol=1e-4, atol=1e-6 * float(max(values) ** 2 + 1))
