"""The weighted mean of updates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfm.aggregation import Mean
from fedfm.aggregation.mean import AT_ONCE


def test_weights_by_examples_by_hand() -> None:
    fold = Mean().start()
    fold.add({"w": torch.tensor([1.0])}, 10)
    fold.add({"w": torch.tensor([4.0])}, 30)
    assert fold.result()["w"].tolist() == [3.25]


def test_identical_updates_are_returned() -> None:
    fold = Mean().start()
    update = {"w": torch.randn(7), "v": torch.randn(2, 2)}
    for weight in (1, 5, 3):
        fold.add(update, weight)
    for name, tensor in fold.result().items():
        torch.testing.assert_close(tensor.float(), update[name])


def test_the_fold_does_not_change_what_it_is_given() -> None:
    update = {"w": torch.tensor([1.0], dtype=torch.float64)}
    fold = Mean().start()
    fold.add(update, 2.0)
    fold.add({"w": torch.tensor([5.0], dtype=torch.float64)}, 2.0)
    assert update["w"].item() == 1.0
    assert fold.result()["w"].item() == 3.0


def test_large_tensors_are_summed_in_float64_too() -> None:
    torch.manual_seed(0)
    updates = [torch.randn(3, AT_ONCE - 5).T for _ in range(3)]  # neither contiguous nor a multiple
    fold = Mean().start()
    for weight, update in enumerate(updates, start=1):
        fold.add({"w": update, "empty": torch.empty(0, 2)}, weight)
    expected = sum(weight * update.double() for weight, update in enumerate(updates, start=1)) / 6
    found = fold.result()
    assert torch.equal(found["w"], expected.float())
    assert found["w"].dtype == torch.float32
    assert found["empty"].shape == (0, 2)


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no updates"):
        Mean().start().result()


@pytest.mark.parametrize(
    ("weights", "sampling", "expected"),
    [
        ("auto", "uniform", 40.0),
        ("auto", "poisson", 40.0),
        ("auto", "weighted", 2.0),
        ("examples", "uniform", 40.0),
        ("uniform", "uniform", 2.0),
    ],
)
def test_weight_of_a_client_of_twenty_examples_drawn_twice(weights: str, sampling: str, expected: float) -> None:
    assert Mean(weights=weights).weight(20, copies=2, sampling=sampling) == expected


@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(1, 500)), min_size=2, max_size=12))
def test_the_mean_lies_between_its_updates(clients: list[tuple[float, int]]) -> None:
    fold = Mean().start()
    for value, weight in clients:
        fold.add({"w": torch.tensor([value])}, weight)
    values = [value for value, _ in clients]
    assert min(values) - 1e-6 <= fold.result()["w"].item() <= max(values) + 1e-6
