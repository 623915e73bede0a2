"""Ridge regression towards given weights, computed from sums in float64.

With inputs a and wanted outputs y, weights W and a bias b,

    [Ŵ, b̂] = argmin Σ ‖y − Ŵa − b̂‖² + λ‖Ŵ − W‖²,    λ = ridge · n · mean a²,

where the mean is over the n examples and the inputs; b̂ is not penalised; without b it is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.proxies.precision import wide


@dataclass(frozen=True)
class Refit:
    """Relative error of a regression, Σ‖y − ŷ‖² / Σ‖y‖².

    Attributes:
        before: with the given weights.
        after: with the fitted weights.
    """

    before: float
    after: float


class RidgeRegression:
    """One regression; the unknown is D = Ŵ − W, the target is the residual r = y − Wa."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Starts a regression of a linear map.

        Args:
            weight: ``[in, out]``, changed in place by `solve`.
            bias: ``[out]``, likewise; None for a map without bias.
        """
        self.weight = weight
        self.start = wide(weight)
        self.bias = bias
        width, size = weight.shape
        self.count = 0
        self.inputs = self._zeros(width)
        self.residual = self._zeros(size)
        self.gram = self._zeros(width, width)
        self.cross = self._zeros(width, size)
        self.residual_squares = self._zeros()
        self.output_squares = self._zeros()

    def _zeros(self, *shape: int) -> Tensor:
        return self.start.new_zeros(shape)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Adds examples: inputs ``[n, in]``, wanted outputs ``[n, out]``."""
        inputs, outputs = wide(inputs), wide(outputs)
        self._add(inputs, outputs, outputs - inputs @ self.start)

    def add_change(self, inputs: Tensor, outputs: Tensor, change: Tensor) -> None:
        """Adds examples of which it is known how much the map's outputs are to change.

        Args:
            inputs: ``[n, in]``.
            outputs: wanted, ``[n, out]``; errors are relative to them.
            change: wanted less given outputs, ``[n, out]``.
        """
        change = wide(change) if self.bias is None else wide(change) + wide(self.bias)
        self._add(wide(inputs), wide(outputs), change)

    def _add(self, inputs: Tensor, outputs: Tensor, residual: Tensor) -> None:
        self.count += len(inputs)
        self.inputs += inputs.sum(0)
        self.residual += residual.sum(0)
        self.gram += inputs.T @ inputs
        self.cross += inputs.T @ residual
        self.residual_squares += residual.square().sum()
        self.output_squares += outputs.square().sum()

    def solve(self, ridge: float) -> Refit:
        """Writes the solution into the map's weight and bias.

        Args:
            ridge: pull towards the given weights, above 0.
        """
        gram, cross, squares = self.gram, self.cross, self.residual_squares
        before = squares
        penalty = ridge * self.gram.trace() / len(self.gram)  # the trace is n times the sum of mean squares
        if self.bias is not None:  # the bias is not penalised, so it removes the means
            bias = wide(self.bias)
            before = squares - 2 * bias @ self.residual + self.count * bias.square().sum()
            gram = gram - torch.outer(self.inputs, self.inputs) / self.count
            cross = cross - torch.outer(self.inputs, self.residual) / self.count
            squares = squares - self.residual.square().sum() / self.count
        ridged = gram.clone()
        ridged.diagonal().add_(penalty.clamp(min=torch.finfo(torch.float32).tiny))
        change = torch.cholesky_solve(cross, torch.linalg.cholesky(ridged))  # [in, out]
        after = squares - 2 * (change * cross).sum() + (change * (gram @ change)).sum()
        self.weight.copy_((self.start + change).to(self.weight.dtype))
        if self.bias is not None:
            bias = (self.residual - self.inputs @ change) / self.count
            self.bias.copy_(bias.to(self.bias.dtype))
        return Refit((before / self.output_squares).item(), (after.clamp(min=0) / self.output_squares).item())
