"""The weighted mean of updates."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedfm.aggregation import Contribution, Fold, Mean, Rule
from fedfm.aggregation.mean import AT_ONCE
from fedfm.params import Params, zeros_like
from fedfm.spec import spec_of
from fedfm.views import whole


def start(update: Params, rule: Rule | None = None) -> Fold:
    """An empty fold of such updates, by examples where no rule is given."""
    return (rule or Mean()).start(spec_of(update), zeros_like(update))


def add(fold: Fold, update: Mapping[str, Tensor], examples: int = 1) -> None:
    fold.add(update, Contribution("a", examples, 1), whole(spec_of(update)))


def test_weights_by_examples_by_hand() -> None:
    fold = start({"w": torch.zeros(1)})
    add(fold, {"w": torch.tensor([1.0])}, 10)
    add(fold, {"w": torch.tensor([4.0])}, 30)
    assert fold.result()["w"].tolist() == [3.25]


def test_identical_updates_are_returned() -> None:
    update = {"w": torch.randn(7), "v": torch.randn(2, 2)}
    fold = start(update)
    for examples in (1, 5, 3):
        add(fold, update, examples)
    for name, tensor in fold.result().items():
        torch.testing.assert_close(tensor, update[name])


def test_the_fold_does_not_change_what_it_is_given() -> None:
    update = {"w": torch.tensor([1.0], dtype=torch.float64)}
    fold = start(update)
    add(fold, update, 2)
    add(fold, {"w": torch.tensor([5.0], dtype=torch.float64)}, 2)
    assert update["w"].item() == 1.0
    assert fold.result()["w"].item() == 3.0


def test_large_tensors_are_summed_in_float64_too() -> None:
    torch.manual_seed(0)
    updates = [torch.randn(3, AT_ONCE - 5).T for _ in range(3)]  # neither contiguous nor a multiple
    fold = start({"w": updates[0], "empty": torch.empty(0, 2)})
    for examples, update in enumerate(updates, start=1):
        add(fold, {"w": update, "empty": torch.empty(0, 2)}, examples)
    expected = sum(examples * update.double() for examples, update in enumerate(updates, start=1)) / 6
    found = fold.result()
    assert torch.equal(found["w"], expected.float())
    assert found["w"].dtype == torch.float32
    assert found["empty"].shape == (0, 2)


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no updates"):
        start({"w": torch.zeros(1)}).result()


def test_each_coordinate_is_a_mean_over_those_that_hold_it() -> None:
    full = {"w": torch.zeros(2, 3), "v": torch.zeros(2)}
    fold = start(full)
    fold.add({"w": torch.full((2, 2), 4.0)}, Contribution("a", 1, 1), {"w": (slice(None), slice(2))})
    fold.add({"w": torch.full((2, 3), 8.0)}, Contribution("b", 3, 1), {"w": ()})
    fold.add({"w": torch.full((1, 3), 1.0)}, Contribution("c", 4, 1), {"w": (torch.tensor([1]),)})
    found = fold.result()
    # row 0: (1·4 + 3·8)/4 = 7, last column 8; row 1: (1·4 + 3·8 + 4·1)/8 = 4, last column (3·8 + 4·1)/7 = 4
    assert found["w"].tolist() == [[7.0, 7.0, 8.0], [4.0, 4.0, 4.0]]
    assert found["v"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_whole_and_partial_updates_may_come_in_any_order(order: list[int]) -> None:
    updates = [
        ({"w": torch.tensor([2.0, 2.0])}, {"w": ()}, 1),
        ({"w": torch.tensor([5.0])}, {"w": (slice(1),)}, 2),
        ({"w": torch.tensor([8.0, 8.0])}, {"w": ()}, 1),
    ]
    fold = start({"w": torch.zeros(2)})
    for number in order:
        update, slices, examples = updates[number]
        fold.add(update, Contribution("a", examples, 1), slices)
    assert fold.result()["w"].tolist() == [5.0, 5.0]


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
    assert Mean(weights=weights).under(sampling).weight(Contribution("a", 20, 1, copies=2)) == expected


@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(1, 500)), min_size=2, max_size=12))
def test_the_mean_lies_between_its_updates(clients: list[tuple[float, int]]) -> None:
    fold = start({"w": torch.zeros(1)})
    for value, examples in clients:
        add(fold, {"w": torch.tensor([value])}, examples)
    values = [value for value, _ in clients]
    assert min(values) - 1e-4 <= fold.result()["w"].item() <= max(values) + 1e-4
