"""FedAdagrad against numbers worked out by hand, and against its limit."""

import pytest
import torch

from fedfm.algorithms import Aggregate
from fedfm.algorithms.fedadagrad import FedAdagrad


def test_two_steps_by_hand() -> None:
    algorithm = FedAdagrad(server_lr=1.0, tau=1.5)
    params, state = {"w": torch.zeros(1)}, algorithm.start({"w": torch.zeros(1)})
    params, state = algorithm.server_step(params, Aggregate({"w": torch.tensor([2.0])}), state)
    assert params["w"].item() == pytest.approx(2 / (2.5 + 1.5))  # v = 1.5² + 2² = 2.5²
    params, state = algorithm.server_step(params, Aggregate({"w": torch.tensor([-6.0])}), state)
    assert params["w"].item() == pytest.approx(0.5 - 6 / (6.5 + 1.5))  # v = 2.5² + 6² = 6.5²


def test_with_a_large_tau_it_is_fedavg() -> None:
    algorithm = FedAdagrad(server_lr=2e4, tau=1e4)
    update = {"w": torch.tensor([0.3, -0.7])}
    params = {"w": torch.zeros(2)}
    params, _ = algorithm.server_step(params, Aggregate(update), algorithm.start(params))
    torch.testing.assert_close(params["w"], update["w"])
