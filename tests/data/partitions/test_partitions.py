"""Properties that all partitions share, and those of each kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedfm.data.partitions import PARTITIONS, Column, Dirichlet, Iid, Partition, Partitioner, Pool, Quantity, Shards
from fedfm.errors import RecipeError

KINDS: list[Partitioner] = [
    Iid(),
    Dirichlet(),
    Dirichlet(alpha=0.01),
    Dirichlet(alpha=0.05, prior=True),
    Dirichlet(alpha=1000.0),
    Shards(),
    Shards(shards_per_client=1),
    Quantity(),
    Quantity(alpha=0.05),
    Column(),
]
SYNTHETIC = [kind for kind in KINDS if kind.kind != "column"]


def name_of(kind: Partitioner) -> str:
    return " ".join(f"{key}={value}" for key, value in kind.model_dump().items())


def split(kind: Partitioner, labels: np.ndarray, clients: int, seed: int = 0) -> dict[str, np.ndarray]:
    column = np.array([f"client {value}" for value in labels], dtype=object)
    return kind.split(Pool(len(labels), labels, column), clients, np.random.default_rng(seed))


cases = st.integers(1, 12).flatmap(
    lambda clients: st.tuples(
        st.just(clients), st.lists(st.integers(0, 4), min_size=2 * clients, max_size=2 * clients + 60)
    )
)


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
@given(case=cases, seed=st.integers(0, 5))
def test_every_example_belongs_to_one_client_and_no_client_goes_without(
    kind: Partitioner, case: tuple[int, list[int]], seed: int
) -> None:
    clients, labels = case
    hands = split(kind, np.array(labels), clients, seed)
    assert sorted(np.concatenate(list(hands.values())).tolist()) == list(range(len(labels)))
    assert all(len(hand) for hand in hands.values())
    for hand in hands.values():
        assert hand.dtype == np.int64
        assert (np.diff(hand) > 0).all()


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_the_same_key_gives_the_same_split(kind: Partitioner) -> None:
    labels = np.random.default_rng(1).integers(0, 4, 200)
    once, again = split(kind, labels, 10), split(kind, labels, 10)
    assert once.keys() == again.keys()
    assert all(np.array_equal(once[client], again[client]) for client in once)


@pytest.mark.parametrize("kind", SYNTHETIC, ids=name_of)
def test_another_key_gives_another_split(kind: Partitioner) -> None:
    labels = np.random.default_rng(1).integers(0, 4, 200)
    once, other = split(kind, labels, 10, seed=0), split(kind, labels, 10, seed=1)
    assert any(not np.array_equal(once[client], other[client]) for client in once)


@pytest.mark.parametrize("kind", SYNTHETIC, ids=name_of)
def test_ids_sort_as_text_as_they_do_as_numbers(kind: Partitioner) -> None:
    ids = list(split(kind, np.zeros(250, dtype=np.int64), 101))
    assert ids == sorted(ids)
    assert [int(name) for name in ids] == list(range(101))
    assert ids[0] == "000"
    assert ids[-1] == "100"


@pytest.mark.parametrize("kind", [Iid(), Dirichlet(), Quantity()], ids=name_of)
def test_too_few_examples_for_the_clients(kind: Partitioner) -> None:
    with pytest.raises(
        RecipeError, match=r"63 .*for 100 clients: 37 clients would get no example.*at most 63"
    ) as caught:
        split(kind, np.arange(63) % 2, 100)
    assert caught.value.problems[0].where == "federation.clients"


def test_too_few_examples_for_the_shards() -> None:
    with pytest.raises(RecipeError, match=r"199 .* 1 clients would get no example; set at most 99"):
        split(Shards(), np.arange(199) % 2, 100)


@pytest.mark.parametrize("kind", [Dirichlet(), Shards()], ids=name_of)
def test_splitting_by_label_needs_labels(kind: Partitioner) -> None:
    with pytest.raises(RecipeError, match="splits by label") as caught:
        kind.split(Pool(100), 10, np.random.default_rng(0))
    assert caught.value.problems[0].where == "federation.partition.kind"


@pytest.mark.parametrize("kind", [Iid(), Quantity()], ids=name_of)
def test_other_kinds_need_none(kind: Partitioner) -> None:
    hands = kind.split(Pool(100), 10, np.random.default_rng(0))
    assert sum(map(len, hands.values())) == 100


def test_column_needs_a_column() -> None:
    with pytest.raises(RecipeError, match=r"data\.client") as caught:
        Column().split(Pool(100), 10, np.random.default_rng(0))
    assert caught.value.problems[0].where == "federation.partition.kind"


def test_column_gives_the_clients_that_there_are_whatever_was_asked() -> None:
    column = np.array(["b", "a", "ä", "b", "10", "9"], dtype=object)
    hands = Column().split(Pool(6, column=column), 99, np.random.default_rng(0))
    assert {client: hand.tolist() for client, hand in hands.items()} == {
        "10": [4],
        "9": [5],
        "a": [1],
        "b": [0, 3],
        "ä": [2],
    }


@given(count=st.integers(1, 200), clients=st.integers(1, 50))
def test_iid_and_dirichlet_sizes_differ_by_one_at_most(count: int, clients: int) -> None:
    if count < clients:
        return
    labels = np.arange(count) % 3
    for kind in (Iid(), Dirichlet(alpha=0.1)):
        sizes = [len(hand) for hand in split(kind, labels, clients).values()]
        assert max(sizes) - min(sizes) <= 1


def test_iid_mixes_labels() -> None:
    """40 clients of 100 with half the labels 1: the shares have mean 0.5 and deviation 0.05 (hypergeometric)."""
    labels = np.repeat([0, 1], 2000)
    shares = np.array([labels[hand].mean() for hand in split(Iid(), labels, 40).values()])
    assert abs(shares.std() - 0.05) < 0.02


def test_shards_give_few_labels_a_client() -> None:
    """arXiv:1602.05629, §3: 10 labels, 100 clients, 200 shards of one label each: two labels a client at most."""
    labels = np.random.default_rng(0).permutation(np.arange(6000) % 10)
    held = [len(set(labels[hand])) for hand in split(Shards(), labels, 100).values()]
    assert max(held) == 2
    one_each = split(Shards(shards_per_client=1), labels, 100)
    assert all(len(set(labels[hand])) == 1 for hand in one_each.values())


def test_quantity_is_unequal_in_size_only() -> None:
    """Dir(1) shares of 100 clients have mean 1 % and deviation close to 1 %; Dir(1000) ones are nearly equal."""
    labels = np.arange(10_000) % 2
    sizes = np.array([len(hand) for hand in split(Quantity(alpha=1.0), labels, 100).values()])
    assert sizes.mean() == 100
    assert 70 < sizes.std() < 130
    even = np.array([len(hand) for hand in split(Quantity(alpha=1000.0), labels, 100).values()])
    assert even.std() < 6
    large = [labels[hand].mean() for hand in split(Quantity(), labels, 10).values() if len(hand) > 500]
    assert all(abs(share - 0.5) < 0.1 for share in large)


@pytest.mark.parametrize(
    ("prior", "alpha", "expected"),
    [
        (True, 1.0, 0.42),
        (True, 5.0, 0.039),
        (True, 10.0, 0.003),
        (False, 1.0, 0.20),
        (False, 5.0, 0.002),
        (False, 10.0, 0.0),
    ],
)
def test_dirichlet_is_as_skewed_as_published(prior: bool, alpha: float, expected: float) -> None:
    """Clients with more than 90 % of one label, two classes 52/48, 6,920 examples, 100 clients, mean of 10 seeds.

    The expected figures are those of FedPFT's and of the symmetric form; tolerance 5 points at α = 1, one point else.
    """
    labels = (np.arange(6920) >= 0.52 * 6920).astype(np.int64)
    lopsided = []
    for seed in range(10):
        shares = np.array(
            [labels[hand].mean() for hand in split(Dirichlet(alpha=alpha, prior=prior), labels, 100, seed).values()]
        )
        lopsided.append(np.mean((shares > 0.9) | (shares < 0.1)))
    assert np.mean(lopsided) == pytest.approx(expected, abs=0.05 if alpha == 1 else 0.01)


def test_dirichlet_prior_keeps_rare_labels_rare() -> None:
    """90/10 labels: Dir(α·p) keeps most clients near 90 %; no turn deals leftovers, so early and late draws agree."""
    labels = (np.arange(5000) >= 4500).astype(np.int64)
    shares = np.array([labels[hand].mean() for hand in split(Dirichlet(alpha=50.0, prior=True), labels, 50).values()])
    assert shares.mean() == pytest.approx(0.1)
    assert 0.03 < shares.std() < 0.08  # Beta(5, 45) has deviation 0.042, a draw of 100 adds 0.03


def test_dirichlet_takes_any_class_numbers_and_a_single_class() -> None:
    labels = np.array([7, 7, 900, 900, -3, 7])
    assert sum(map(len, split(Dirichlet(), labels, 3).values())) == 6
    assert sum(map(len, split(Dirichlet(), np.ones(6, dtype=np.int64), 3).values())) == 6


def test_the_registry_and_the_union_agree() -> None:
    adapter: TypeAdapter[Partitioner] = TypeAdapter(Partition)
    for kind, settings in PARTITIONS.items():
        assert adapter.validate_python({"kind": kind}) == settings(kind=kind)
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "dirichlet", "alpha": 0})
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "shards", "shards_per_client": 0})
