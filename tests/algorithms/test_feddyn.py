"""FedDyn against hand-computed numbers, an exact solver of its local problem, and FedAvg."""

from __future__ import annotations

import torch

from fedfm.algorithms import At, ClientRound, FedAvg, FedDyn
from fedfm.clients import LocalResult
from tests.algorithms.quadratic import CENTRES, UNLIKE, Quadratics


def test_the_gradient_is_that_of_the_regularised_loss() -> None:
    w = torch.tensor([1.0, 3.0], requires_grad=True)
    received, h, target, alpha = torch.tensor([0.5, 4.0]), torch.tensor([0.2, -1.0]), torch.tensor([2.0, 2.0]), 0.3
    (plain,) = torch.autograd.grad((w - target).pow(2).sum(), w)
    whole = (w - target).pow(2).sum() - (h * w).sum() + alpha / 2 * (w - received).pow(2).sum()
    (expected,) = torch.autograd.grad(whole, w)
    found = FedDyn(alpha=alpha).gradient(plain, w.detach(), At(received, own={"h": h}))
    torch.testing.assert_close(found, expected)


def test_what_a_client_keeps_by_hand() -> None:
    at = ClientRound({"w": torch.zeros(1)}, {}, {"h": {"w": torch.tensor([1.0])}}, lr=0.1)
    done = FedDyn(alpha=0.5).client_finish({"w": torch.tensor([-3.0])}, at, LocalResult(2, 2, 2, 0.0))
    assert done.own["h"]["w"].item() == 1.0 + 0.5 * 3.0
    assert not done.extras


def test_two_rounds_by_hand() -> None:
    # Clients want 2 and 6, curvature 1, η = 0.5, K = 1, α = 0.5.
    federation = Quadratics(
        FedDyn(alpha=0.5),
        torch.ones(2, 1, dtype=torch.float64),
        torch.tensor([[2.0], [6.0]], dtype=torch.float64),
        lr=0.5,
    )
    federation.round([0, 1])
    # Δ = 1 and 3, mean 2; h_i = −0.5 and −1.5; h = −1; w = 0 + 2 + 2
    assert federation.params["w"].item() == 4.0
    assert [federation.own[client]["h"]["w"].item() for client in (0, 1)] == [-0.5, -1.5]
    federation.round([1])
    # gradient −2 + 1.5 = −0.5; Δ = 0.25; h_1 = −1.625; h = −1 − 0.5·½·0.25; w = 4 + 0.25 + 2.125
    assert federation.own[1]["h"]["w"].item() == -1.625
    assert federation.server["h"]["w"].item() == -1.0625
    assert federation.params["w"].item() == 6.375


def test_it_ends_at_the_optimum_of_the_sum_where_fedavg_does_not() -> None:
    ends = []
    for algorithm in (FedDyn(alpha=1.0), FedAvg()):
        federation = Quadratics(algorithm, UNLIKE, CENTRES, lr=0.2, steps=12)
        for _ in range(80):
            federation.round(range(3))
        ends.append((federation.params["w"] - federation.optimum).abs().max().item())
    assert ends[0] < 1e-6
    assert ends[1] > 0.3


def test_where_the_local_problem_is_solved_h_is_the_gradient_at_the_clients_end() -> None:
    federation = Quadratics(FedDyn(alpha=0.5), UNLIKE, CENTRES, lr=0.2, steps=150)
    for _ in range(3):
        received, before = federation.params["w"], dict(federation.own)
        federation.round(range(3))
        for client in range(3):
            h = before[client]["h"]["w"] if client in before else torch.zeros(2, dtype=torch.float64)
            curvature, centre = UNLIKE[client], CENTRES[client]
            end = (curvature * centre + h + 0.5 * received) / (curvature + 0.5)  # where the gradient is zero
            torch.testing.assert_close(federation.own[client]["h"]["w"], curvature * (end - centre), rtol=0, atol=1e-5)
