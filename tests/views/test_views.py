"""Parts of tensors: narrowing and widening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfm.spec import Spec, TensorSpec, spec_of
from fedfm.views import VIEWS, Slices, View, Views, holds, intersect, is_whole, narrow, narrow_spec, whole, widen
from fedfm.views.base import Index

FULL = {"a": torch.arange(12.0).view(3, 4), "b": torch.arange(5.0)}
PART: Slices = {"a": (slice(2), torch.tensor([0, 3]))}


def test_a_part_by_hand() -> None:
    assert narrow(FULL, PART)["a"].tolist() == [[0.0, 3.0], [4.0, 7.0]]
    assert narrow_spec(spec_of(FULL), PART) == {"a": TensorSpec((2, 2))}
    assert holds(PART, "a", (3, 4)).long().tolist() == [[1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert not holds(PART, "b", (5,)).any()


def test_putting_it_back_changes_what_is_held_and_nothing_else() -> None:
    before = {name: tensor.clone() for name, tensor in FULL.items()}
    found = widen({"a": torch.full((2, 2), -1.0)}, PART, FULL)
    assert found["a"].tolist() == [[-1.0, 1.0, 2.0, -1.0], [-1.0, 5.0, 6.0, -1.0], [8.0, 9.0, 10.0, 11.0]]
    assert found["b"] is FULL["b"]
    assert all(torch.equal(FULL[name], tensor) for name, tensor in before.items())


def test_a_tensor_that_is_held_whole_is_the_same_object() -> None:
    slices = whole(spec_of(FULL))
    assert narrow(FULL, slices)["a"] is FULL["a"]
    assert widen(FULL, slices, FULL)["b"] is FULL["b"]
    assert is_whole(slices, spec_of(FULL))
    assert not is_whole(PART, spec_of(FULL))


SIZES = (4, 5, 3)


def indices(size: int) -> st.SearchStrategy[Index]:
    positions = st.sets(st.integers(0, size - 1)).map(lambda found: torch.tensor(sorted(found), dtype=torch.int64))
    return st.one_of(positions, st.integers(0, size).map(slice), st.just(slice(None)))


parts = st.integers(0, 3).flatmap(lambda depth: st.tuples(*map(indices, SIZES[:depth])))


@given(parts)
def test_what_is_cut_out_can_be_put_back(index: tuple[Index, ...]) -> None:
    full = {"w": torch.randn(SIZES)}
    part = narrow(full, {"w": index})
    assert spec_of(part) == narrow_spec(spec_of(full), {"w": index})
    assert torch.equal(widen(part, {"w": index}, full)["w"], full["w"])
    mask = holds({"w": index}, "w", SIZES)
    assert int(mask.sum()) == part["w"].numel()
    assert torch.equal(widen(part, {"w": index}, {"w": torch.zeros(SIZES)})["w"], full["w"] * mask)


@given(parts, parts)
def test_an_intersection_holds_what_both_hold(a: tuple[Index, ...], b: tuple[Index, ...]) -> None:
    spec: Spec = {"w": TensorSpec(SIZES)}
    both = intersect({"w": a}, {"w": b}, spec)
    expected = holds({"w": a}, "w", SIZES) & holds({"w": b}, "w", SIZES)
    assert torch.equal(holds(both, "w", SIZES), expected)


@dataclass(frozen=True)
class Fixed(View):
    """Always the same part."""

    slices: Slices
    own: frozenset[str] = frozenset()

    @classmethod
    def of(cls, recipe: Any) -> Self | None:
        return None

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        return self.slices

    def personal(self, spec: Spec) -> frozenset[str]:
        return self.own


def test_views_combine_by_intersection() -> None:
    views = Views((Fixed({"a": (slice(2),), "b": ()}, frozenset({"c"})), Fixed({"a": (slice(None), slice(1))})))
    spec = spec_of(FULL)
    held = views.held(spec, "x", 1)
    assert held.keys() == {"a"}
    assert narrow(FULL, held)["a"].tolist() == [[0.0], [4.0]]
    assert views.personal(spec) == {"c"}
    assert not views.whole
    assert Views().whole
    assert is_whole(Views().held(spec, "x", 1), spec)
    assert views.period == Views().period == 1
    assert views.fixed(spec) == Views().fixed(spec) == set()


@pytest.mark.parametrize("name", VIEWS)
def test_a_recipe_that_asks_for_no_view_has_none(name: str) -> None:
    from types import SimpleNamespace

    recipe = SimpleNamespace(
        seed=0,
        tune=SimpleNamespace(kind="lora", r=8, share=None),
        federation=SimpleNamespace(ranks=None, budgets=None, modalities=None),
        aggregate=SimpleNamespace(schedules=False),
        task=SimpleNamespace(outputs_held=None),
        algorithm=SimpleNamespace(task_rank=None),
        select=SimpleNamespace(chooses=False),
    )
    assert VIEWS[name].of(recipe) is None
