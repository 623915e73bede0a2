"""Rules whose residual makes them exact, against dense matrices; and what each does to the factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedfm.aggregation import RULES, Contribution, FedEx, FedMomentum, Flora
from fedfm.aggregation.lora.exact import ExactFold, ExactRule
from fedfm.params import Params, add
from fedfm.spec import spec_of
from fedfm.views import Slices, narrow, whole

A, B = "m.lora_A.weight", "m.lora_B.weight"
OUT, IN, R = 9, 7, 3
EXAMPLES = (4, 1, 7)
EXACT = [rule for rule in RULES.values() if issubclass(rule, ExactRule)]
every_rule = pytest.mark.parametrize("rule", EXACT, ids=lambda rule: rule.__name__)


def drawn(seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    shapes = {A: (R, IN), B: (OUT, R), "head.bias": (4,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def folded(rule: ExactRule, parts: list[Slices] | None = None, *, round: int = 1) -> tuple[ExactFold, Params]:  # noqa: A002
    params = drawn(0)
    fold = rule.begin(spec_of(params), params, seed=3, round=round)
    for number, examples in enumerate(EXAMPLES):
        slices = whole(spec_of(params)) if parts is None else parts[number]
        fold.add(narrow(drawn(10 + number), slices), Contribution(str(number), examples, 1), slices)
    return fold, params


def dense(params: Params, ranks: tuple[int, ...] = (R, R, R), weights: tuple[int, ...] = EXAMPLES) -> np.ndarray:
    """Σ p_c·B_c·A_c."""
    total = np.zeros((OUT, IN))
    for number, (rank, weight) in enumerate(zip(ranks, weights, strict=True)):
        trained = add(params, drawn(10 + number))
        product = trained[B].double().numpy()[:, :rank] @ trained[A].double().numpy()[:rank]
        total += weight / sum(weights) * product
    return total


def whole_product(fold: ExactFold, params: Params) -> np.ndarray:
    after = add(params, fold.result())
    residual = fold.residual(after)
    product = after[B].double() @ after[A].double()
    if residual:
        product += residual[B].double() @ residual[A].double()
    return product.numpy()


@every_rule
def test_factors_and_residual_are_the_mean_of_the_products(rule: type[ExactRule]) -> None:
    fold, params = folded(rule())
    np.testing.assert_allclose(whole_product(fold, params), dense(params), atol=2e-6)


@every_rule
def test_uniform_weights_count_clients_alike(rule: type[ExactRule]) -> None:
    fold, params = folded(rule(weights="uniform"))
    np.testing.assert_allclose(whole_product(fold, params), dense(params, weights=(1, 1, 1)), atol=2e-6)
    assert rule().under("weighted").weights == "uniform"
    assert rule().under("uniform").weights == "examples"


@pytest.mark.parametrize("rule", [Flora, FedEx])
def test_unlike_ranks_are_exact_too(rule: type[ExactRule]) -> None:
    ranks = (1, 3, 2)
    parts: list[Slices] = [{A: (slice(k),), B: (slice(None), slice(k)), "head.bias": ()} for k in ranks]
    fold, params = folded(rule(), parts)
    np.testing.assert_allclose(whole_product(fold, params), dense(params, ranks), atol=2e-6)


@every_rule
def test_a_factor_that_no_client_trains_counts_as_it_is(rule: type[ExactRule]) -> None:
    parts: list[Slices] = [{B: (), "head.bias": ()}] * 3
    fold, params = folded(rule(), parts)
    trained = [params[B] + drawn(10 + number)[B] for number in range(3)]
    expected = sum(n / sum(EXAMPLES) * b.double() for n, b in zip(EXAMPLES, trained, strict=True)) @ params[A].double()
    np.testing.assert_allclose(whole_product(fold, params), expected.numpy(), atol=2e-6)


def test_flora_starts_again_with_a_key() -> None:
    after = []
    for round_ in (1, 1, 2):
        fold, params = folded(Flora(), round=round_)
        after.append(add(params, fold.result()))
    assert not after[0][B].any()
    assert torch.equal(after[0][A], after[1][A])
    assert not torch.allclose(after[0][A], after[2][A])
    assert after[0][A].abs().max() <= IN**-0.5 + 1e-6


def test_fedex_keeps_the_mean_of_the_factors() -> None:
    fold, params = folded(FedEx())
    step = fold.result()
    for name in (A, B, "head.bias"):
        mean = sum(n / sum(EXAMPLES) * drawn(10 + c)[name].double() for c, n in enumerate(EXAMPLES))
        torch.testing.assert_close(step[name].double(), mean, atol=1e-6, rtol=1e-6)
    residual = fold.residual(add(params, step))
    assert residual[A].shape[0] == FedEx().residual_rank(R, len(EXAMPLES)) == 6


def test_fedmomentum_keeps_the_leading_part() -> None:
    fold, params = folded(FedMomentum())
    after = add(params, fold.result())
    u, s, vt = np.linalg.svd(dense(params))
    leading = (u[:, :R] * s[:R]) @ vt[:R]
    np.testing.assert_allclose((after[B] @ after[A]).numpy(), leading, atol=1e-5)
    torch.testing.assert_close(after[B].T @ after[B], after[A] @ after[A].T, atol=1e-5, rtol=1e-5)  # shared alike
    residual = fold.residual(after)
    found = np.linalg.svd((residual[B] @ residual[A]).numpy())[1]
    np.testing.assert_allclose(found[: len(s) - R], s[R:], atol=1e-5)


@pytest.mark.parametrize("rule", [FedEx, FedMomentum])
def test_alike_clients_leave_no_residual(rule: type[ExactRule]) -> None:
    params = drawn(0)
    fold = rule().begin(spec_of(params), params, seed=0, round=1)
    for client in "ab":
        fold.add(drawn(5), Contribution(client, 2, 1), whole(spec_of(params)))
    after = add(params, fold.result())
    found = fold.residual(after)
    assert not found or (found[B] @ found[A]).abs().max() < 1e-5
