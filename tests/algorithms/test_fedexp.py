"""FedExP against numpy on random updates, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedfm.algorithms import FedAvg, FedExp
from fedfm.params import Params
from tests.algorithms.test_fednova import EXAMPLES, draw, played


@pytest.mark.parametrize(("scale", "epsilon"), [(1.0, 1e-3), (0.01, 1e-3), (1.0, 5.0)])
def test_it_equals_the_papers_formula(scale: float, epsilon: float) -> None:
    w = draw(0)
    deltas: list[Params] = [{name: scale * tensor for name, tensor in draw(seed).items()} for seed in (1, 2, 3)]
    found = played(FedExp(epsilon=epsilon), w, deltas)
    p = np.array(EXAMPLES) / sum(EXAMPLES)
    mean = {name: sum(p[i] * deltas[i][name].numpy() for i in range(3)) for name in w}
    norms = [sum((delta[name].numpy() ** 2).sum() for name in w) for delta in deltas]
    eta = max(1, (p * norms).sum() / (2 * (sum((mean[name] ** 2).sum() for name in w) + epsilon)))
    for name in w:
        np.testing.assert_allclose(found[name], w[name].numpy() + eta * mean[name], rtol=1e-12)


def test_updates_at_right_angles_are_extrapolated_by_half_their_number() -> None:
    # Orthogonal updates of length 1 and equal weight: mean ‖Δ_i‖² = 1, ‖Δ̄‖² = 1/3, so η_g = 3/2 and w = 3/2 · 1/3.
    w = {"w": torch.zeros(3, dtype=torch.float64)}
    deltas = [{"w": row} for row in torch.eye(3, dtype=torch.float64)]
    found = played(FedExp(epsilon=1e-12), w, deltas, examples=(1, 1, 1))["w"]
    np.testing.assert_allclose(found, [0.5, 0.5, 0.5], rtol=1e-9)


def test_clients_that_agree_give_fedavg() -> None:
    w, delta = draw(0), draw(1)
    torch.testing.assert_close(played(FedExp(), w, [delta] * 3), played(FedAvg(), w, [delta] * 3))
