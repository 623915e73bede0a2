"""Each algorithm against hand-computed numbers, its limits, and an independent implementation."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.nn.functional import mse_loss

import fedfm.algorithms.base
from fedfm.aggregation import Contribution
from fedfm.algorithms import (
    ALGORITHMS,
    Aggregate,
    AnyAlgorithm,
    At,
    ClientRound,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
)
from fedfm.algorithms.base import Algorithm
from fedfm.clients import LocalResult
from fedfm.params import Params
from tests.algorithms.quadratic import CENTRES, Quadratics

every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def params(*values: float) -> Params:
    return {"w": torch.tensor(values)}


def change(algorithm: Algorithm, *values: float) -> Aggregate:
    """An aggregate in float64, with groups that the algorithm's clients return."""
    update = {"w": torch.tensor(values, dtype=torch.float64)}
    figures = algorithm.measure(update, Contribution("a", 1, 1))
    extras = {group: {"w": torch.zeros(len(values))} for group in algorithm.returned}
    return Aggregate(update, extras, figures=figures)


def at_of(algorithm: Algorithm, *shape: int) -> At:
    """Random values where a step is taken."""

    def draw() -> Tensor:
        return torch.randn(*shape)

    own = algorithm.client_start(params(0.0))
    return At(draw(), {group: draw() for group in algorithm.sent}, {group: draw() for group in own}, lr=0.1)


def test_the_example_in_the_base_class_runs() -> None:
    results = doctest.testmod(fedfm.algorithms.base)
    assert results.attempted > 5
    assert results.failed == 0


@every_algorithm
def test_registry_and_schema_agree(name: str) -> None:
    assert type(TypeAdapter(AnyAlgorithm).validate_python({"name": name})) is ALGORITHMS[name]


@every_algorithm
def test_settings_refuse_the_unknown(name: str) -> None:
    with pytest.raises(ValidationError):
        ALGORITHMS[name](nonsense=1)


@every_algorithm
def test_the_server_step_changes_none_of_its_arguments(name: str) -> None:
    algorithm = ALGORITHMS[name]()
    w, aggregate = params(1.0, -2.0), change(ALGORITHMS[name](), 0.5, 0.25)
    state = algorithm.start(w)
    before = {part: group["w"].clone() for part, group in state.items()}
    new, _ = algorithm.server_step(w, aggregate, state)
    assert w["w"].tolist() == [1.0, -2.0]
    assert aggregate.update["w"].tolist() == [0.5, 0.25]
    assert all(torch.equal(before[part], state[part]["w"]) for part in state)
    assert new["w"].dtype == torch.float32


@every_algorithm
def test_a_zero_update_from_the_start_moves_nothing(name: str) -> None:
    algorithm = ALGORITHMS[name]()
    w = params(1.0, -2.0)
    new, _ = algorithm.server_step(w, change(algorithm, 0.0, 0.0), algorithm.start(w))
    assert torch.equal(new["w"], w["w"])


@every_algorithm
def test_gradient_rule_is_the_same_for_one_client_and_a_stack(name: str) -> None:
    algorithm = ALGORITHMS[name]()
    gradient, parameter, at = torch.randn(3, 4, 5), torch.randn(3, 4, 5), at_of(algorithm, 3, 4, 5)
    stacked = algorithm.gradient(gradient, parameter, at)
    for k in range(3):
        alone = At(
            at.received[k],
            {group: rows[k] for group, rows in at.sent.items()},
            {group: rows[k] for group, rows in at.own.items()},
            lr=at.lr,
        )
        assert torch.equal(stacked[k], algorithm.gradient(gradient[k], parameter[k], alone))


@every_algorithm
def test_groups_are_the_declared_ones_and_shaped_after_the_tunable(name: str) -> None:
    algorithm = ALGORITHMS[name]()
    w = {"a": torch.ones(2, 3), "b": torch.ones(4)}
    sent, own = algorithm.sends(algorithm.start(w)), algorithm.client_start(w)
    update = {name: torch.full_like(tensor, 0.5) for name, tensor in w.items()}
    done = algorithm.client_finish(update, ClientRound(w, sent, own, lr=0.1), LocalResult(2, 4, 4, 0.0))
    assert tuple(sent) == algorithm.sent
    assert tuple(done.extras) == algorithm.returned
    assert done.own.keys() == own.keys()
    for group in (*sent.values(), *own.values(), done.update, *done.extras.values(), *done.own.values()):
        assert {key: tensor.shape for key, tensor in group.items()} == {"a": (2, 3), "b": (4,)}
    assert all(torch.equal(tensor, torch.full_like(tensor, 0.5)) for tensor in update.values())


def test_fedavg_adds_the_mean_update() -> None:
    new, state = FedAvg().server_step(params(1.0), change(FedAvg(), 0.25), {})
    assert new["w"].item() == 1.25
    assert state == {}


def test_fedprox_gradient_is_that_of_the_proximal_objective() -> None:
    w, received, mu = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([0.5, 4.0]), 0.3
    target = torch.tensor([2.0, 2.0])
    (plain,) = torch.autograd.grad(mse_loss(w, target), w)
    objective = mse_loss(w, target) + mu / 2 * (w - received).pow(2).sum()
    (expected,) = torch.autograd.grad(objective, w)
    torch.testing.assert_close(FedProx(mu=mu).gradient(plain, w.detach(), At(received)), expected)


def test_fedprox_pull_lasts_beyond_the_first_batch() -> None:
    # A well-known snippet keeps `parameters()`, a generator, so that its proximal term is 0 from the second batch on.
    rule = FedProx(mu=1.0)
    w, received = torch.tensor([2.0]), torch.tensor([0.0])
    for _ in range(3):
        pull = rule.gradient(torch.zeros(1), w, At(received))
        assert pull.item() == w.item() != 0
        w = w - 0.1 * pull


def test_fedprox_without_mu_is_fedavg() -> None:
    gradient = torch.randn(5)
    assert torch.equal(FedProx(mu=0.0).gradient(gradient, torch.randn(5), At(torch.randn(5))), gradient)


def test_fedavgm_equals_torch_sgd_with_momentum() -> None:
    w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    optimizer = torch.optim.SGD([w], lr=0.7, momentum=0.9)
    algorithm, ours = FedAvgM(server_lr=0.7, momentum=0.9), params(1.0, -1.0)
    state = algorithm.start(ours)
    for delta in torch.tensor([[0.5, 0.1], [-0.2, 0.3], [0.0, 0.0], [0.1, -0.4]]):
        w.grad = -delta
        optimizer.step()
        ours, state = algorithm.server_step(ours, Aggregate({"w": delta.double()}), state)
    torch.testing.assert_close(ours["w"], w.detach())


def test_fedavgm_without_momentum_is_fedavg() -> None:
    delta = {"w": torch.tensor([0.25, -0.5], dtype=torch.float64)}
    algorithm = FedAvgM(server_lr=1.0, momentum=0.0)
    new, _ = algorithm.server_step(params(1.0, 2.0), Aggregate(delta), algorithm.start(params(1.0, 2.0)))
    assert new["w"].tolist() == [1.25, 1.5]


def test_fedadam_first_step_by_hand() -> None:
    # m = 0.1·Δ = 0.02; v = 0.99·τ² + 0.01·Δ² = 0.0099 + 0.0004 = 0.0103; w += η·m/(√v + τ)
    algorithm = FedAdam(server_lr=0.5, beta1=0.9, beta2=0.99, tau=0.1)
    w = params(1.0)
    new, state = algorithm.server_step(w, change(algorithm, 0.2), algorithm.start(w))
    assert state["m"]["w"].item() == pytest.approx(0.02)
    assert state["v"]["w"].item() == pytest.approx(0.0103)
    assert new["w"].item() == pytest.approx(1.0 + 0.5 * 0.02 / (math.sqrt(0.0103) + 0.1))


def test_fedyogi_first_step_by_hand() -> None:
    # Δ² = 0.04 > v₋₁ = τ² = 0.01, so v = 0.01 + 0.01·0.04
    algorithm = FedYogi(server_lr=0.5, beta1=0.9, beta2=0.99, tau=0.1)
    w = params(1.0)
    _, state = algorithm.server_step(w, change(algorithm, 0.2), algorithm.start(w))
    assert state["v"]["w"].item() == pytest.approx(0.0104)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
def test_adaptive_servers_equal_the_papers_recursion(kind: type[FedAdam] | type[FedYogi]) -> None:
    rng = np.random.default_rng(0)
    deltas = rng.normal(scale=0.05, size=(12, 6))
    algorithm = kind(server_lr=0.03, beta1=0.8, beta2=0.95, tau=0.01)
    ours = {"w": torch.zeros(6)}
    state = algorithm.start(ours)
    w, m, v = np.zeros(6), np.zeros(6), np.full(6, 0.01**2)
    for delta in deltas:
        ours, state = algorithm.server_step(ours, Aggregate({"w": torch.from_numpy(delta)}), state)
        for i, d in enumerate(delta):  # Algorithm 2 of arXiv:2003.00295, coordinate by coordinate
            m[i] = 0.8 * m[i] + 0.2 * d
            if kind is FedAdam:
                v[i] = 0.95 * v[i] + 0.05 * d * d
            else:
                v[i] = v[i] - 0.05 * d * d * np.sign(v[i] - d * d)
            w[i] = w[i] + 0.03 * m[i] / (math.sqrt(v[i]) + 0.01)
    np.testing.assert_allclose(ours["w"].numpy(), w, rtol=2e-5)


def test_fedadam_squares_the_update_not_the_momentum() -> None:
    algorithm = FedAdam(beta1=0.9, beta2=0.5, tau=1e-3)
    w = params(0.0)
    _, state = algorithm.server_step(w, change(algorithm, 1.0), algorithm.start(w))
    assert state["v"]["w"].item() == pytest.approx(0.5, rel=1e-4)


@every_algorithm
def test_a_quadratic_federation_approaches_its_optimum(name: str) -> None:
    adaptive = {"server_lr": 0.3, "tau": 0.1}
    settings = {**dict.fromkeys(("fedadam", "fedyogi", "fedadagrad"), adaptive), "fedexp": {"epsilon": 1.0}}
    federation = Quadratics(ALGORITHMS[name](**settings.get(name, {})), torch.ones_like(CENTRES), CENTRES, lr=0.1)
    for _ in range(200):
        federation.round(range(3))
    torch.testing.assert_close(federation.params["w"], CENTRES.mean(0), atol=0.05, rtol=0)
