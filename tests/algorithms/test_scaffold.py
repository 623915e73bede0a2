"""SCAFFOLD against hand-computed numbers, gradient descent, and FedAvg."""

from __future__ import annotations

import pytest
import torch

from fedfm.algorithms import At, ClientRound, FedAvg, Scaffold
from fedfm.clients import LocalResult
from tests.algorithms.quadratic import CENTRES, UNLIKE, Quadratics


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_step_subtracts_the_clients_control_and_adds_the_servers() -> None:
    at = At(vector(0.0), sent={"control": vector(0.25)}, own={"control": vector(1.0)})
    assert Scaffold().gradient(vector(2.0), vector(9.0), at).item() == 2.0 - 1.0 + 0.25


def test_option_two_by_hand() -> None:
    # K·η = 4·0.5 = 2; c_i⁺ = c_i − c − Δ/2 = 1 − 0.25 + 3 = 3.75
    at = ClientRound({"w": vector(0.0)}, {"control": {"w": vector(0.25)}}, {"control": {"w": vector(1.0)}}, lr=0.5)
    done = Scaffold().client_finish({"w": vector(-6.0)}, at, LocalResult(4, 4, 4, 0.0))
    assert done.own["control"]["w"].item() == 3.75
    assert done.extras["control"]["w"].item() == 2.75
    assert done.update["w"].item() == -6.0


def test_two_rounds_by_hand() -> None:
    # Clients want 2 and 6, curvature 1, η = 0.5, K = 1, server step 0.5; client 1 alone in the second round.
    federation = Quadratics(
        Scaffold(server_lr=0.5), torch.ones(2, 1, dtype=torch.float64), vector(2.0, 6.0)[:, None], lr=0.5
    )
    federation.round([0, 1])
    # gradients −2 and −6; Δ = 1 and 3, mean 2; c_i = −2 and −6; c = −4
    assert federation.params["w"].item() == 1.0
    assert [federation.own[client]["control"]["w"].item() for client in (0, 1)] == [-2.0, -6.0]
    assert federation.server["control"]["w"].item() == -4.0
    federation.round([1])
    # gradient −5 + 6 − 4 = −3; Δ = 1.5; c_1⁺ = −6 + 4 − 1.5/0.5 = −5; c = −4 + ½·1
    assert federation.params["w"].item() == 1.75
    assert federation.own[1]["control"]["w"].item() == -5.0
    assert federation.own[0]["control"]["w"].item() == -2.0
    assert federation.server["control"]["w"].item() == -3.5


def test_with_all_clients_and_one_step_it_is_gradient_descent() -> None:
    federation = Quadratics(Scaffold(), UNLIKE, CENTRES, lr=0.1)
    w = torch.zeros(2, dtype=torch.float64)
    for _ in range(30):
        federation.round(range(3))
        w = w - 0.1 * (UNLIKE * (w - CENTRES)).mean(0)
        torch.testing.assert_close(federation.params["w"], w, rtol=1e-12, atol=1e-12)


def test_with_many_local_steps_it_ends_at_the_optimum_where_fedavg_does_not() -> None:
    ends = []
    for algorithm in (Scaffold(), FedAvg()):
        federation = Quadratics(algorithm, UNLIKE, CENTRES, lr=0.1, steps=6)
        for _ in range(100):
            federation.round(range(3))
        ends.append((federation.params["w"] - federation.optimum).abs().max().item())
    assert ends[0] < 1e-9
    assert ends[1] > 0.3


def test_with_some_clients_a_round_it_ends_at_the_optimum() -> None:
    federation = Quadratics(Scaffold(), UNLIKE, CENTRES, lr=0.05, steps=5)
    for number in range(400):
        federation.round([number % 3, (number + 1) % 3])
    torch.testing.assert_close(federation.params["w"], federation.optimum, rtol=0, atol=1e-6)


def test_a_client_without_a_step_keeps_its_control() -> None:
    own = {"control": {"w": vector(1.0)}}
    at = ClientRound({"w": vector(0.0)}, {"control": {"w": vector(0.25)}}, own, lr=0.0)
    done = Scaffold().client_finish({"w": vector(0.0)}, at, LocalResult(0, 0, 0, float("nan")))
    assert done.own == own
    assert done.extras["control"]["w"].item() == 0.0


def test_plain_sgd_is_needed_and_said_why() -> None:
    assert "K·η" in Scaffold.needs["sgd"]


def test_the_servers_control_is_a_mean_over_all_clients_with_partial_participation() -> None:
    federation = Quadratics(Scaffold(), UNLIKE, CENTRES, lr=0.05, steps=3)
    for cohort in ([0, 1], [2], [1, 2], [0]):
        federation.round(cohort)
    mean = sum(federation.own[client]["control"]["w"] for client in range(3)) / 3
    assert federation.server["control"]["w"].tolist() == pytest.approx(mean.tolist(), abs=1e-12)
