"""Rules that compare updates: against byzfl's known answers, against numpy, and under attackers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedfm
from fedfm.aggregation import (
    Bulyan,
    CenteredClipping,
    Contribution,
    FlTrust,
    FoolsGold,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    NormClip,
    Rule,
    Smea,
    TrimmedMean,
)
from fedfm.aggregation.robust.mixing import AdaptiveClipping, Bucketing, Mixing, NearestNeighbors
from fedfm.errors import RecipeError
from fedfm.params import Params
from fedfm.recipe import load_recipe
from fedfm.spec import spec_of
from fedfm.views import whole
from tests.aggregation import byzfl_answers as byzfl
from tests.small import small_recipe, write_rows

UPDATES = np.array(byzfl.UPDATES)
TOLERANT: Sequence[Rule] = (
    Krum(f=2),
    MultiKrum(f=2),
    Bulyan(f=2),
    GeometricMedian(),
    CenteredClipping(),
    NormClip(),
    Smea(f=2),
    Median(before=[NearestNeighbors(f=2)]),
    TrimmedMean(trim=0.25, before=[AdaptiveClipping(f=2), NearestNeighbors(f=2)]),
    MultiKrum(f=2, before=[NearestNeighbors(f=2)]),
)
"""Rules that withstand two of eleven."""
every_rule = pytest.mark.parametrize("rule", TOLERANT, ids=lambda rule: rule.rule)


class Kept:
    """A memory of its own."""

    def __init__(self) -> None:
        self.tensors: dict[str, Params] = {}

    def kept(self, key: str) -> Params | None:
        return self.tensors.get(key)

    def keep(self, key: str, params: Params) -> None:
        self.tensors[key] = params


def split(row: np.ndarray) -> Params:
    """A vector as two tensors."""
    return {"w": torch.from_numpy(row[:4].copy()).view(2, 2), "v": torch.from_numpy(row[4:].copy())}


def joined(params: Mapping[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([params[name].flatten().numpy() for name in ("w", "v")])


def combined(rule: Rule, rows: np.ndarray, memory: Kept | None = None) -> np.ndarray:
    spec = spec_of(split(rows[0]))
    fold = rule.begin(spec, {}, seed=0, round=1)
    if memory is not None:
        fold.recall(memory)
    for number, row in enumerate(rows):
        fold.add(split(row), Contribution(str(number), 1 + number, 1), whole(spec))
    return joined(fold.result())


def matrix(mixing: Mixing, rows: np.ndarray) -> np.ndarray:
    products = torch.from_numpy(rows @ rows.T)
    return mixing.matrix(products, np.random.default_rng(0)).numpy()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Krum(f=2), byzfl.KRUM),
        (MultiKrum(f=2, keep=8), byzfl.MULTI_KRUM),
        (GeometricMedian(nu=0.1, iterations=3), byzfl.GEOMETRIC_MEDIAN),
        (GeometricMedian(), byzfl.GEOMETRIC_MEDIAN_SMALL_NU),
        (CenteredClipping(tau=1.5, iterations=4), byzfl.CENTERED_CLIPPING),
        (Krum(f=2, before=[NearestNeighbors(f=3)]), byzfl.NNM_KRUM),
        (
            TrimmedMean(trim=3 / 11, before=[AdaptiveClipping(f=3), NearestNeighbors(f=3)]),
            byzfl.ARC_NNM_TRIMMED_MEAN,
        ),
    ],
)
def test_t11_they_equal_byzfls(rule: Rule, expected: list[float]) -> None:
    np.testing.assert_allclose(combined(rule, UPDATES), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("mixing", "expected"), [(NearestNeighbors(f=3), byzfl.NNM), (AdaptiveClipping(f=3), byzfl.ARC)]
)
def test_what_is_done_before_equals_byzfls(mixing: Mixing, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(matrix(mixing, UPDATES) @ UPDATES, expected, rtol=0, atol=1e-9)


def test_centred_clipping_goes_on_from_the_aggregate_of_the_round_before() -> None:
    rule, memory = CenteredClipping(tau=1.5, iterations=2), Kept()
    combined(rule, UPDATES, memory)
    np.testing.assert_allclose(
        combined(rule, UPDATES[::-1] * 0.5, memory), byzfl.CENTERED_CLIPPING_SECOND, rtol=0, atol=1e-9
    )


def test_buckets_are_means_of_different_updates() -> None:
    found = matrix(Bucketing(size=3), UPDATES)
    assert found.shape == (4, 11)
    assert sorted(np.count_nonzero(found, axis=1)) == [2, 3, 3, 3]
    np.testing.assert_array_equal(np.count_nonzero(found, axis=0), np.ones(11))
    np.testing.assert_allclose(found.sum(1), 1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2))
def test_bulyan_is_repeated_krum_and_the_values_near_the_median(seed: int, f: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(4 * f + 3 + seed % 2, 6))
    left, chosen = list(range(len(rows))), []
    while len(chosen) < len(rows) - 2 * f:
        scores = []
        for i in left:
            others = sorted(((rows[i] - rows[j]) ** 2).sum() for j in left if j != i)
            scores.append((sum(others[: max(1, len(left) - f - 2)]), sum(others)))
        chosen.append(left.pop(scores.index(min(scores))))
    picked = rows[chosen]
    nearest = np.argsort(np.abs(picked - np.median(picked, axis=0)), axis=0)[: len(chosen) - 2 * f]
    expected = np.take_along_axis(picked, nearest, axis=0).mean(0)
    np.testing.assert_allclose(combined(Bulyan(f=f), rows), expected, rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_smea_is_the_mean_of_the_subset_of_least_variance(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(7, 6))
    subsets = [list(subset) for subset in itertools.combinations(range(7), 5)]
    largest = [np.linalg.svd(rows[s] - rows[s].mean(0), compute_uv=False)[0] for s in subsets]
    expected = rows[subsets[int(np.argmin(largest))]].mean(0)
    np.testing.assert_allclose(combined(Smea(f=2), rows), expected, rtol=0, atol=1e-12)


def test_t11_norms_are_clipped_to_their_quantile_and_absurd_ones_left_out() -> None:
    directions = np.eye(6)[[0, 1, 2, 3, 4]]
    rows = directions * np.array([1.0, 2.0, 3.0, 6.0, 100.0])[:, None]
    expected = (directions[:4] * np.array([1.0, 2.0, 3.0, 3.0])[:, None]).sum(0) / 4  # q = 3, 100 > 10·3
    np.testing.assert_allclose(combined(NormClip(), rows), expected)
    expected = (directions * np.array([1.0, 2.0, 3.0, 3.0, 3.0])[:, None]).sum(0) / 5
    np.testing.assert_allclose(combined(NormClip(zero=None), rows), expected)


def test_fltrust_weighs_by_the_cosine_with_the_servers_update() -> None:
    own = np.array([0.5, -1.0, 2.0, 0.3, 0.7, -0.2])
    spec = spec_of(split(own))
    fold = FlTrust().begin(spec, {}, seed=0, round=1)
    for number, row in enumerate(UPDATES):
        fold.add(split(row), Contribution(str(number), 1, 1), whole(spec))
    fold.refer(split(own))
    trust = [max(0.0, row @ own / np.linalg.norm(row) / np.linalg.norm(own)) for row in UPDATES]
    scaled = [np.linalg.norm(own) / np.linalg.norm(row) * row for row in UPDATES]
    np.testing.assert_allclose(joined(fold.result()), np.average(scaled, axis=0, weights=trust), rtol=0, atol=1e-12)
    assert fold.notes().keys() == {str(number) for number, weight in enumerate(trust) if not weight}
    distrusted = FlTrust().begin(spec, {}, seed=0, round=1)
    distrusted.add(split(-own), Contribution("a", 1, 1), whole(spec))
    distrusted.refer(split(own))
    assert not joined(distrusted.result()).any()


def test_a_run_with_fltrust_trains_at_the_server_and_outlasts_a_majority_of_attackers(tmp_path: Path) -> None:
    write_rows(tmp_path / "root.jsonl", 20, start=300)
    found = {}
    for name, aggregate in (("mean", {"rule": "mean"}), ("fltrust", {"rule": "fltrust"})):
        attack = {"kind": "sign-flip", "scale": 5.0, "share": 0.6}
        clients = {"clients": 5, "per_round": 5, "rounds": 5, "attackers": attack}
        local = {"batch_size": 5, "learning_rate": 0.03}
        recipe = small_recipe(tmp_path, name=name, federation=clients, aggregate=aggregate, local=local)
        recipe["data"]["root"] = str(tmp_path / "root.jsonl")
        summary = fedfm.run(recipe).summary
        found[name] = summary["final"]["loss"] - summary["initial"]["loss"]
    assert found["fltrust"] < 0 < found["mean"]


def test_fltrust_needs_data_of_the_server(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"name a few labelled examples of its own \(data\.root\)"):
        load_recipe(small_recipe(tmp_path, aggregate={"rule": "fltrust"}))


def foolsgold(histories: np.ndarray) -> np.ndarray:
    """Algorithm 1, line by line."""
    count = len(histories)
    unit = histories / np.linalg.norm(histories, axis=1, keepdims=True)
    cs = unit @ unit.T
    v = [max(cs[i, j] for j in range(count) if j != i) for i in range(count)]
    alpha = np.zeros(count)
    for i in range(count):
        pardoned = [cs[i, j] * (v[i] / v[j] if v[j] > v[i] else 1) for j in range(count) if j != i]
        alpha[i] = min(1, max(0, 1 - max(pardoned)))
    alpha /= alpha.max()
    alpha[alpha > 0.99] = 0.99
    with np.errstate(divide="ignore"):
        return np.clip(np.log(alpha / (1 - alpha)) + 0.5, 0, 1)


def test_foolsgold_weighs_by_the_history_of_all_rounds() -> None:
    rng, memory, total = np.random.default_rng(3), Kept(), np.zeros((6, 6))
    for _ in range(3):
        rows = rng.normal(size=(6, 6))
        rows[4:] = rng.normal(size=6) + 0.3 * rng.normal(size=(2, 6)) if not total.any() else rows[4] + rows[4:] * 0.1
        total += rows
        weights = foolsgold(total)
        expected = weights @ rows / weights.sum()
        np.testing.assert_allclose(combined(FoolsGold(), rows, memory), expected, rtol=0, atol=1e-9)
    assert np.ptp(weights) > 0.5


@every_rule
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_clients_does_not_matter(rule: Rule, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(11, 6))
    np.testing.assert_allclose(combined(rule, rows), combined(rule, rng.permutation(rows)), rtol=0, atol=1e-9)


@every_rule
@pytest.mark.parametrize("size", [10.0, 1e6, 1e30])
def test_t11_two_attackers_of_eleven_do_not_move_it_far(rule: Rule, size: float) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(11, 6)) + 3
    honest = rows[:9].copy()
    centre, spread = honest.mean(0), np.linalg.norm(honest - honest.mean(0), axis=1).max()
    for attack in (np.full(6, -size), size * rng.normal(size=(2, 6)), -size * centre):
        rows[9:] = attack
        assert np.linalg.norm(combined(rule, rows) - centre) < 1.5 * spread
    assert np.linalg.norm(rows.mean(0) - centre) > spread / 2  # the mean goes with them


@pytest.mark.parametrize("rule", [Krum(f=2), MultiKrum(f=2), Bulyan(f=2), Smea(f=2)], ids=lambda rule: rule.rule)
def test_t11_far_attackers_leave_it_in_the_hull_of_the_others(rule: Rule) -> None:
    rows = np.random.default_rng(2).normal(size=(11, 6))
    rows[[3, 7]] = 1e4
    honest = np.delete(rows, [3, 7], axis=0)
    found = combined(rule, rows)
    assert (honest.min(0) <= found).all()
    assert (found <= honest.max(0)).all()


def test_a_few_values_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [combined(rule, UPDATES) for rule in TOLERANT]
    monkeypatch.setattr("fedfm.aggregation.gathered.AT_ONCE", 22)
    for rule, expected in zip(TOLERANT, before, strict=True):
        np.testing.assert_allclose(combined(rule, UPDATES), expected, rtol=0, atol=1e-12)


A, B = "q.lora_A.weight", "q.lora_B.weight"
RANK, IN, OUT = 2, 5, 4


def factors(clients: int, seed: int = 0) -> tuple[Params, list[Params]]:
    """Factors before the round, and those of each client after it."""
    rng = np.random.default_rng(seed)

    def drawn(scale: float = 1.0) -> Params:
        shapes = {A: (RANK, IN), B: (OUT, RANK), "head": (3,)}
        return {name: torch.from_numpy(scale * rng.normal(size=shape)) for name, shape in shapes.items()}

    before = drawn()
    return before, [{name: before[name] + step for name, step in drawn(0.3).items()} for _ in range(clients)]


def after(rule: Rule, before: Params, trained: Sequence[Params]) -> Params:
    spec = spec_of(before)
    fold = rule.begin(spec, before, seed=0, round=1)
    for number, params in enumerate(trained):
        update = {name: params[name] - before[name] for name in before}
        fold.add(update, Contribution(str(number), 1, 1), whole(spec))
    found = fold.result()
    return {name: before[name] + found[name] for name in before}


def dense(before: Params, trained: Sequence[Params]) -> np.ndarray:
    """What each client changes of the weights and the head, as one vector."""
    rows = [
        np.concatenate([(p[B] @ p[A] - before[B] @ before[A]).flatten(), p["head"] - before["head"]]) for p in trained
    ]
    return np.stack(rows)


@pytest.mark.parametrize("block", [2**22, 1])
def test_products_are_compared_as_if_they_were_there(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("fedfm.aggregation.robust.grams.AT_ONCE", block)
    before, trained = factors(7)
    changes = dense(before, trained)
    rule = MultiKrum(f=2, compare="products", keep=3)
    distances = ((changes[:, None] - changes[None]) ** 2).sum(-1)
    scores = np.sort(distances, axis=1)[:, 1:4].sum(1)
    best = np.argsort(scores)[:3]
    u, s, vt = np.linalg.svd(np.mean([(trained[i][B] @ trained[i][A]).numpy() for i in best], axis=0))
    found = after(rule, before, trained)
    np.testing.assert_allclose(found[B] @ found[A], (u[:, :RANK] * s[:RANK]) @ vt[:RANK], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["head"], np.mean([trained[i]["head"].numpy() for i in best], axis=0))


@pytest.mark.parametrize("rule", [Krum(f=1), MultiKrum(f=1), GeometricMedian(), NormClip(), Smea(f=1)])
def test_factors_with_the_same_product_are_the_same_update(rule: Rule) -> None:
    before, trained = factors(7)
    turned = [dict(params) for params in trained]
    rng = np.random.default_rng(5)
    for scale, params in zip((1e4, 1.0, 1e-3, 2.0, 1.0, 1.0, 50.0), turned, strict=True):
        gauge = torch.from_numpy(scale * np.linalg.qr(rng.normal(size=(RANK, RANK)))[0])
        params[B], params[A] = params[B] @ gauge, torch.linalg.inv(gauge) @ params[A]
    rule = rule.model_copy(update={"compare": "products"})
    expected, found = after(rule, before, trained), after(rule, before, turned)
    np.testing.assert_allclose(found[B] @ found[A], expected[B] @ expected[A], rtol=0, atol=1e-8)
    np.testing.assert_allclose(found["head"], expected["head"], rtol=0, atol=1e-8)


def test_a_huge_factor_hides_nothing_where_products_are_compared() -> None:
    before, trained = factors(7)
    trained[0][B], trained[0][A] = trained[0][B] * 1e3, trained[0][A] / 1e3  # the product is honest
    plain, safe = (after(MultiKrum(f=0, compare=name), before, trained) for name in ("updates", "products"))
    honest = np.mean([(params[B] @ params[A]).numpy() for params in trained], axis=0)
    assert np.abs((safe[B] @ safe[A]).numpy() - honest).max() < np.abs(honest).max()
    assert np.abs((plain[B] @ plain[A]).numpy() - honest).max() > 10 * np.abs(honest).max()


@pytest.mark.parametrize(
    ("aggregate", "per_round", "message"),
    [
        ({"rule": "krum", "f": 2}, 6, "needs 7 updates for a step, which has 6 at most"),
        ({"rule": "bulyan", "f": 1}, 6, "needs 7 updates for a step, which has 6 at most"),
        ({"rule": "krum", "f": 1, "before": [{"kind": "bucketing", "size": 2}]}, 8, "needs 9 updates for a step"),
        ({"rule": "median", "before": [{"kind": "nnm", "f": 3}]}, 6, "needs 7 updates for a step"),
        ({"rule": "multi-krum", "f": 1, "keep": 6}, 6, "needs 7 updates for a step"),
        ({"rule": "smea", "f": 9}, 30, "can combine 19 updates at most, and a step may have 30"),
    ],
)
def test_a_cohort_that_does_not_fit_is_refused(
    tmp_path: Path, aggregate: dict[str, Any], per_round: int, message: str
) -> None:
    federation = {"clients": 40, "per_round": per_round, "rounds": 1}
    with pytest.raises(RecipeError, match=message):
        load_recipe(small_recipe(tmp_path, federation=federation, aggregate=aggregate))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": {"kind": "ia3"}}, "aggregate.compare: products multiplies"),
        ({"algorithm": {"name": "fedavgm"}}, "chooses new factors in each round"),
        ({"tune": {"kind": "lora", "share": "not head"}}, "compares whole updates"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    aggregate = {"rule": "geometric-median", "compare": "products"}
    with pytest.raises(RecipeError, match=message):
        load_recipe(small_recipe(tmp_path, aggregate=aggregate, **changes))
