"""Orders and batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedfm.data.batches import batch_plan, epoch_order, evaluation_batches
from fedfm.randomness import numpy_generator


def generator(client: str = "0") -> np.random.Generator:
    return numpy_generator(0, "batches", round=1, client=client)


@given(count=st.integers(1, 60), batch_size=st.integers(1, 20), epochs=st.integers(1, 4))
def test_every_pass_visits_every_example_once(count: int, batch_size: int, epochs: int) -> None:
    plan = batch_plan(count, batch_size, epochs=epochs, max_steps=None, generator=generator())
    per_pass = -(-count // batch_size)
    assert len(plan) == per_pass * epochs
    for start in range(0, len(plan), per_pass):
        one_pass = plan[start : start + per_pass]
        assert sorted(np.concatenate(one_pass).tolist()) == list(range(count))
        assert [len(batch) for batch in one_pass[:-1]] == [batch_size] * (per_pass - 1)


@given(count=st.integers(1, 30), batch_size=st.integers(1, 20), steps=st.integers(1, 40))
def test_max_steps_is_exact_and_begins_like_whole_passes(count: int, batch_size: int, steps: int) -> None:
    plan = batch_plan(count, batch_size, epochs=1, max_steps=steps, generator=generator())
    longer = batch_plan(count, batch_size, epochs=steps, max_steps=None, generator=generator())
    assert len(plan) == steps
    assert all(np.array_equal(a, b) for a, b in zip(plan, longer, strict=False))


def test_passes_are_shuffled_anew_and_clients_differ() -> None:
    first, second = batch_plan(50, 50, epochs=2, max_steps=None, generator=generator())
    (other,) = batch_plan(50, 50, epochs=1, max_steps=None, generator=generator("1"))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_orders_are_uniform() -> None:
    """Each of the 6 orders of 3 examples comes up 1,000 ± 5 σ times in 6,000 draws (σ = 29)."""
    draws = generator()
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(6000):
        order = tuple(epoch_order(3, draws).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(number - 1000) < 145 for number in counts.values())


def test_evaluation_goes_from_long_to_short() -> None:
    batches = evaluation_batches(np.array([3, 9, 3, 5, 1], dtype=np.int32), 2)
    assert [batch.tolist() for batch in batches] == [[1, 3], [0, 2], [4]]


@given(lengths=st.lists(st.integers(1, 9), max_size=30), batch_size=st.integers(1, 8))
def test_evaluation_results_can_be_put_back(lengths: list[int], batch_size: int) -> None:
    given_lengths = np.array(lengths, dtype=np.int32)
    batches = evaluation_batches(given_lengths, batch_size)
    order = np.concatenate([*batches, np.array([], dtype=np.int64)])
    restored = np.empty(len(lengths), dtype=np.int32)
    restored[order] = np.concatenate([*(given_lengths[batch] for batch in batches), np.array([], dtype=np.int32)])
    assert restored.tolist() == lengths
