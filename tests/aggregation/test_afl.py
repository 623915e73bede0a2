"""AFL against Stochastic-AFL of arXiv:1902.00146, by hand and in numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fedfm.aggregation import Afl, Contribution
from fedfm.aggregation.afl import WEIGHTS, onto_simplex
from fedfm.params import Params
from fedfm.spec import spec_of

START: Params = {"w": torch.zeros(2, dtype=torch.float64)}
DELTAS = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c/d": [-1.0, 4.0]}


@dataclass
class Kept:
    """The memory of a run's committed rounds."""

    held: dict[str, Params] = field(default_factory=dict)

    def kept(self, key: str) -> Params | None:
        return self.held.get(key)

    def keep(self, key: str, params: Params) -> None:
        self.held[key] = params

    @property
    def weights(self) -> list[float]:
        return [weight.item() for weight in self.held[WEIGHTS].values()]


def played(rule: Afl, memory: Kept, losses: dict[str, float | None]) -> tuple[list[float], dict[str, float]]:
    fold = rule.start(spec_of(START), START)
    fold.recall(memory)
    for client, loss in losses.items():
        update = {"w": torch.tensor(DELTAS[client], dtype=torch.float64)}
        fold.add(update, Contribution(client, 7, 1, loss=loss), {"w": ()})
    return fold.result()["w"].tolist(), dict(fold.figures())


def test_two_rounds_by_hand() -> None:
    rule, memory = Afl(weight_lr=0.25), Kept()
    step, figures = played(rule, memory, {"a": 1.0, "b": 2.0, "c/d": 3.0})
    np.testing.assert_allclose(step, [0.0, 5 / 3])  # all weights are 1/3
    np.testing.assert_allclose(memory.weights, [1 / 12, 1 / 3, 7 / 12])  # ∓ 0.25 about the mean loss 2
    assert figures == pytest.approx({"worst_loss": 3.0, "loss_variance": 2 / 3, "largest_weight": 7 / 12})
    step, _ = played(rule, memory, {"a": 1.0, "b": 1.0, "c/d": 4.0})
    np.testing.assert_allclose(step, [1 / 12 - 7 / 12, 1 / 3 + 4 * 7 / 12])
    # λ + γ·(F − 2) = (−1/6, 1/12, 13/12); with θ = 1/12 only the last is above 0
    np.testing.assert_allclose(memory.weights, [0.0, 0.0, 1.0], atol=1e-12)


def test_the_projection_is_the_nearest_point() -> None:
    for seed in range(5):
        values = np.random.default_rng(seed).normal(size=6)
        nearest = minimize(
            lambda point, to: ((point - to) ** 2).sum(),
            np.full(6, 1 / 6),
            args=(values,),
            bounds=[(0, None)] * 6,
            constraints={"type": "eq", "fun": lambda point: point.sum() - 1},
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(onto_simplex(torch.from_numpy(values)).numpy(), nearest.x, atol=1e-6)


def test_being_drawn_raises_no_weight_and_a_new_client_gets_the_mean() -> None:
    rule, memory = Afl(weight_lr=0.1), Kept()
    played(rule, memory, {"a": 1.0, "b": 2.0})
    np.testing.assert_allclose(memory.weights, [0.45, 0.55])
    played(rule, memory, {"a": 5.0})
    np.testing.assert_allclose(memory.weights, [0.45, 0.55])
    step, _ = played(rule, memory, {"b": 2.0, "c/d": 2.0})
    np.testing.assert_allclose(step, [-0.5 / 1.05, (0.55 + 4 * 0.5) / 1.05])
    np.testing.assert_allclose(memory.weights, [0.3, 0.55 * 2 / 3, 1 / 3])


def test_the_weights_find_the_worst_mixture() -> None:
    """Two clients that want 0 and 1; the third wants 0 too. The mean is 1/3, the minimax point is 1/2."""
    rule, memory, w = Afl(weight_lr=0.05), Kept(), 0.0
    for _ in range(600):
        fold = rule.start(spec_of({"w": torch.zeros(1)}), {})
        fold.recall(memory)
        for client, target in {"a": 0.0, "b": 1.0, "c": 0.0}.items():
            step = {"w": torch.tensor([0.2 * (target - w)])}
            fold.add(step, Contribution(client, 1, 1, loss=(target - w) ** 2), {"w": ()})
        w += fold.result()["w"].item()
    assert w == pytest.approx(0.5, abs=1e-3)


def test_without_losses_the_weights_stay() -> None:
    rule, memory = Afl(), Kept()
    step, figures = played(rule, memory, dict.fromkeys(DELTAS))
    np.testing.assert_allclose(step, [0.0, 5 / 3])
    np.testing.assert_allclose(memory.weights, [1 / 3] * 3)
    assert figures == pytest.approx({"largest_weight": 1 / 3})
