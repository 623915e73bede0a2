"""q-FedAvg against Algorithm 2 of arXiv:1905.10497 in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedfm.aggregation import Contribution, Mean, QFedAvg, Rule
from fedfm.params import Params
from fedfm.spec import spec_of

LOSSES = {"a": 0.5, "b": 1.5, "c": 3.0}
UPDATES = {"a": [0.1, -0.2, 0.3], "b": [0.4, 0.0, -0.1], "c": [-0.3, 0.5, 0.2]}


def folded(rule: Rule, losses: dict[str, float | None] | dict[str, float], examples: int = 1) -> np.ndarray:
    start: Params = {"w": torch.zeros(2, dtype=torch.float64), "b": torch.zeros((), dtype=torch.float64)}
    fold = rule.start(spec_of(start), start)
    for number, (client, loss) in enumerate(losses.items(), 1):
        *w, b = UPDATES[client]
        update = {"w": torch.tensor(w, dtype=torch.float64), "b": torch.tensor(b, dtype=torch.float64)}
        fold.add(update, Contribution(client, number * examples, 1, loss=loss), {"w": (), "b": ()})
    found = fold.result()
    return np.array([*found["w"].tolist(), found["b"].item()])


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("lipschitz", [0.5, 10.0])
def test_the_step_is_that_of_the_paper(q: float, lipschitz: float) -> None:
    numerator, denominator = np.zeros(3), 0.0
    for client, loss in LOSSES.items():
        gradient = lipschitz * -np.array(UPDATES[client])  # L·(w − w_k)
        numerator += loss**q * gradient
        denominator += q * loss ** (q - 1) * gradient @ gradient + lipschitz * loss**q
    expected = -numerator / denominator
    np.testing.assert_allclose(folded(QFedAvg(q=q, lipschitz=lipschitz), LOSSES), expected, rtol=1e-12)


def test_with_q_0_or_without_losses_it_is_the_mean_with_equal_weights() -> None:
    uniform = folded(Mean(weights="uniform"), LOSSES)
    np.testing.assert_allclose(folded(QFedAvg(q=0), LOSSES), uniform)
    np.testing.assert_allclose(folded(QFedAvg(q=2), dict.fromkeys(LOSSES)), uniform)


def test_a_large_q_follows_the_client_with_the_largest_loss() -> None:
    towards = folded(QFedAvg(q=20, lipschitz=1e-6), LOSSES)
    np.testing.assert_allclose(towards, UPDATES["c"], rtol=1e-2)


@pytest.mark.parametrize("loss", [0.0, -1.0, 3e38])
def test_no_loss_of_a_client_gives_a_step_that_is_not_finite(loss: float) -> None:
    for q in (0.5, 20.0):
        assert np.isfinite(folded(QFedAvg(q=q), {**LOSSES, "a": loss})).all()
        assert np.isfinite(folded(QFedAvg(q=q), dict.fromkeys(LOSSES, loss))).all()
