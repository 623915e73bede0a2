"""Slopes against derivatives of a quadratic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedfm.clients.directions import Leg, walk
from fedfm.clients.finite_differences import SlopeProbe

A = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
DIRECTION = (4, 2)


class Quadratic:
    """Two examples, each with the loss ½·wᵀAw."""

    def outputs(self, model: Any, batch: Any) -> Tensor:
        return 0.5 * model.w @ A @ model.w

    def losses(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        return outputs.repeat(2), torch.ones(2)


def probe(epsilon: float) -> SlopeProbe:
    parameter = nn.Parameter(W.clone())
    tunable = SimpleNamespace(model=SimpleNamespace(w=parameter), parameters={"w": parameter})
    return SlopeProbe(tunable, Quadratic(), epsilon)  # type: ignore[arg-type]


def z() -> Tensor:
    return -dict(walk({"w": torch.zeros(3)}, [Leg(DIRECTION[0], torch.tensor([0.0, 0.0, 1.0]))]))["w"].double()


def test_a_central_slope_is_the_directional_derivative() -> None:
    found = probe(0.25)
    assert found.central({}, DIRECTION) == pytest.approx((z() @ A @ W).item(), rel=1e-12)
    torch.testing.assert_close(found.tunable.parameters["w"].detach(), W - 0.25 * z())
    assert found.losses.result().loss == pytest.approx(0.5 * (W @ A @ W + 0.25**2 * z() @ A @ z()).item())


def test_a_forward_slope_has_the_curvature_as_its_bias() -> None:
    found = probe(0.25)
    slope = found.forward({}, DIRECTION, found.loss({}))
    assert slope == pytest.approx((z() @ A @ W + 0.125 * z() @ A @ z()).item(), rel=1e-12)


def test_a_slope_that_is_not_finite_moves_nothing() -> None:
    found = probe(0.25)
    with pytest.raises(FloatingPointError, match=r"lower local.learning_rate"):
        found.shift(DIRECTION, float("inf"))
    assert torch.equal(found.tunable.parameters["w"].detach(), W)
