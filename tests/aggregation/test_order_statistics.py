"""Median and trimmed mean against numpy and scipy; updates are read from disk a part at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean

from fedfm.aggregation import Contribution, Median, Rule, TrimmedMean
from fedfm.params import Params
from fedfm.spec import spec_of
from fedfm.views import Slices


def combined(rule: Rule, updates: Iterable[tuple[Params, Slices, int]], params: Params) -> Params:
    fold = rule.start(spec_of(params), params)
    for number, (update, slices, copies) in enumerate(updates):
        fold.add(update, Contribution(str(number), 10 + number, 1, copies=copies), slices)
    return fold.result()


def stacked(rows: np.ndarray) -> list[tuple[Params, Slices, int]]:
    return [({"w": torch.from_numpy(row)}, {"w": ()}, 1) for row in rows]


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_t11_they_equal_numpys_and_scipys(clients: int, values: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(clients, values)).round(1)  # some are equal
    params = {"w": torch.zeros(values, dtype=torch.float64)}
    np.testing.assert_array_equal(combined(Median(), stacked(rows), params)["w"], np.median(rows, axis=0))
    for trim in (0.0, 0.2, 0.49):
        found = combined(TrimmedMean(trim=trim), stacked(rows), params)["w"]
        np.testing.assert_allclose(found, trim_mean(rows, trim, axis=0), rtol=0, atol=1e-12)


def test_a_few_values_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    params = {"w": torch.zeros(7, 11), "v": torch.zeros(5, dtype=torch.bfloat16)}
    updates = [
        ({name: torch.randn(tensor.shape).to(tensor.dtype) for name, tensor in params.items()}, {"w": (), "v": ()}, 1)
        for _ in range(4)
    ]
    at_once = combined(Median(), updates, params)
    monkeypatch.setattr("fedfm.aggregation.gathered.AT_ONCE", 12)
    piecewise = combined(Median(), updates, params)
    for name, tensor in at_once.items():
        assert torch.equal(piecewise[name], tensor)
    expected = np.median(np.stack([update["w"].double().numpy() for update, _, _ in updates]), axis=0)
    assert torch.equal(at_once["w"], torch.from_numpy(expected).float())


def test_each_coordinate_is_over_those_that_hold_it_and_copies_count() -> None:
    params = {"w": torch.zeros(2, 3)}
    updates = [
        ({"w": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])}, {"w": ()}, 2),
        ({"w": torch.tensor([[7.0], [9.0]])}, {"w": (slice(None), slice(1))}, 1),
        ({"w": torch.tensor([[0.0, -8.0]])}, {"w": (torch.tensor([1]), slice(1, 3))}, 1),
        ({}, {}, 1),
    ]
    found = combined(Median(), updates, params)["w"]
    assert found.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    found = combined(Median(), [(update, slices, 1) for update, slices, _ in updates], params)["w"]
    assert found.tolist() == [[4.0, 2.0, 3.0], [6.5, 2.5, -1.0]]


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(trim=0.4)])
def test_t11_two_of_five_clients_cannot_move_it_out_of_the_others_range(rule: Rule) -> None:
    rows = np.array([[1.0], [1.1], [0.9], [1e6], [-1e9]])
    assert 0.9 <= combined(rule, stacked(rows), {"w": torch.zeros(1, dtype=torch.float64)})["w"].item() <= 1.1


def test_updates_do_not_stay_in_memory() -> None:
    import weakref

    params = {"w": torch.zeros(4)}
    fold = Median().start(spec_of(params), params)
    update = {"w": torch.ones(4)}
    gone = weakref.ref(update["w"])
    fold.add(update, Contribution("a", 1, 1), {"w": ()})
    del update
    assert gone() is None
    assert fold.result()["w"].tolist() == [1.0] * 4
