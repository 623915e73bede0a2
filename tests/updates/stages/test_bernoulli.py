"""Bernoulli: bits by hand, their distribution and their bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedfm.params import Params, digest
from fedfm.spec import TensorSpec, empty, spec_of
from fedfm.updates import MessageKey, UpdatePath
from fedfm.updates.stages import Bernoulli
from fedfm.wire import stored_bytes

PATH = UpdatePath((Bernoulli(),))
SURE: Params = {
    "b.mask_scores": torch.tensor([[90.0, -90.0]]),
    "a.mask_scores": torch.tensor([90.0, 90.0, -90.0]),
    "head.weight": torch.tensor([0.5, -3.0]),
}


def sent(params: Params, client: str = "c", number: int = 1) -> Params:
    groups, kept = PATH.encode({"tunable": params}, {}, MessageKey(0, number, client))
    assert kept == {}
    return dict(groups["tunable"])


def test_scores_become_bits_and_the_rest_passes_by_hand() -> None:
    found = sent(SURE)
    assert spec_of(found) == PATH.spec({"tunable": spec_of(SURE)})["tunable"]
    (bits,) = [tensor for name, tensor in found.items() if name.endswith(".bits")]
    assert bits.tolist() == [0b11010000]  # a: 1 1 0, b: 1 0
    arrived = PATH.decode({"tunable": found}, {"tunable": spec_of(SURE)}, MessageKey(0, 1, "c"))["tunable"]
    assert {name: tensor.tolist() for name, tensor in arrived.items()} == {
        "a.mask_scores": [1.0, 1.0, 0.0],
        "b.mask_scores": [[1.0, 0.0]],
        "head.weight": [0.5, -3.0],
    }
    assert spec_of(arrived) == spec_of(SURE)


def test_a_bit_is_one_with_the_probability_of_its_score() -> None:
    odds = np.array([1 / 9, 1.0, 3.0, 19.0])  # probabilities 0.1, 0.5, 0.75, 0.95
    scores = {"a.mask_scores": torch.from_numpy(np.log(odds)).float().repeat(20_000, 1)}
    arrived = Bernoulli().decode(sent(scores), spec_of(scores))["a.mask_scores"]
    assert set(arrived.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(arrived.double().mean(0).numpy(), [0.1, 0.5, 0.75, 0.95], atol=0.018)


def test_clients_and_rounds_draw_apart_and_again_alike() -> None:
    scores = {"a.mask_scores": torch.zeros(400)}
    one = digest(sent(scores))
    assert one == digest(sent(scores))
    assert one not in (digest(sent(scores, client="d")), digest(sent(scores, number=2)))


def test_one_bit_a_score() -> None:
    spec = {f"layer.{number}.mask_scores": TensorSpec((128, 256)) for number in range(4)}
    (crossing,) = PATH.spec({"tunable": spec})["tunable"].values()
    assert crossing == TensorSpec((4 * 128 * 256 // 8,), torch.uint8)
    assert stored_bytes(empty(Bernoulli().spec(spec))) < stored_bytes(empty(spec)) / 30


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_are_not_sent_as_bits(value: float) -> None:
    with pytest.raises(FloatingPointError, match=r"scores `b\.mask_scores` are not finite; try a lower local"):
        sent({"a.mask_scores": torch.zeros(3), "b.mask_scores": torch.tensor([value, 0.0])})
