"""A compressed FFN's output matrix in closed form: ridge regression of the whole FFN's output on the kept neurons.

With a the activations of the backbone's FFN on the proxy's own input, and S the neurons kept,

    [Ŵ₂, b̂₂] = argmin Σ ‖W₂a + b₂ − Ŵ₂a_S − b̂₂‖² + λ‖Ŵ₂ − W₂[:, S]‖²,    λ = ridge · n · mean a_S²,

over the n real positions of public data; the mean is over positions and kept neurons, and b̂₂ is not penalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.models.families import Block
from fedfm.proxies.ffn import output_bias, output_layer, vectors
from fedfm.proxies.hidden import Pairs
from fedfm.proxies.precision import wide
from fedfm.proxies.trace import Model, block_arguments, real_positions
from fedfm.tasks.base import Batch


@dataclass(frozen=True)
class Refit:
    """What a regression left of an FFN's error, ‖W₂a + b₂ − Ŵ₂a_S − b̂₂‖² / ‖W₂a + b₂‖².

    Attributes:
        before: with the backbone's own weights.
        after: with those found.
    """

    before: float
    after: float


@torch.no_grad()
def refit_outputs(
    student: Model, pairs: Pairs, kept: Mapping[str, Tensor], batches: Sequence[Batch], ridge: float
) -> dict[str, Refit]:
    """Refits output matrices and their biases, in place, block by block from the input on.

    Args:
        student: the proxy as it was cut out, before anything else changed it: attention and input matrices are the
            backbone's.
        pairs: compressed blocks, the backbone's and the proxy's, in the order of a pass.
        kept: int64 [m'] indices of the kept neurons by the path of the student's block.
        batches: public ones; each is passed once for every block.
        ridge: pull towards the backbone's weights, above 0.

    Returns:
        What each regression left, by the path of the student's block.
    """
    student.eval()
    report: dict[str, Refit] = {}
    for teacher_block, block in pairs:
        moments = _Moments(block, kept[block.path])
        for batch in batches:
            arguments, named = block_arguments(student, block, batch)
            activation, output = _ffn(teacher_block, arguments, named)
            mask = batch.get("attention_mask")
            moments.add(real_positions(activation, mask), real_positions(output, mask))
        report[block.path] = moments.solve(ridge)
    return report


def _ffn(block: Block, arguments: tuple[object, ...], named: dict[str, object]) -> tuple[Tensor, Tensor]:
    """Activations ``[…, m]`` and output ``[…, d]`` of the FFN when a block is called so."""
    seen: list[tuple[Tensor, Tensor]] = []
    with output_layer(block).register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output))):
        block.module(*arguments, **named)
    return seen[0]


class _Moments:
    """Sums over positions that decide the regression, in float64.

    The unknown is D = Ŵ₂ − W₂[:, S], and what it regresses the residual r = W₂a + b₂ − W₂[:, S]a_S.
    """

    def __init__(self, block: Block, kept: Tensor) -> None:
        self.block = block
        self.weight = vectors(block)[-1]  # [m', d], a view
        self.start = wide(self.weight)
        name = output_bias(block)
        self.bias = None if name is None else block.module.get_parameter(name)
        self.kept = kept.to(self.weight.device)
        width, size = self.weight.shape
        self.count = 0
        self.activation = self._zeros(width)
        self.residual = self._zeros(size)
        self.gram = self._zeros(width, width)
        self.cross = self._zeros(width, size)
        self.residual_squares = self._zeros()
        self.output_squares = self._zeros()

    def _zeros(self, *shape: int) -> Tensor:
        return self.start.new_zeros(shape)

    def add(self, activation: Tensor, output: Tensor) -> None:
        """Adds positions: activations of all neurons ``[n, m]``, outputs ``[n, d]``."""
        chosen = wide(activation[:, self.kept])
        output = wide(output)
        residual = output - chosen @ self.start
        self.count += len(chosen)
        self.activation += chosen.sum(0)
        self.residual += residual.sum(0)
        self.gram += chosen.T @ chosen
        self.cross += chosen.T @ residual
        self.residual_squares += residual.square().sum()
        self.output_squares += output.square().sum()

    def solve(self, ridge: float) -> Refit:
        """Writes the best weights into the block."""
        gram, cross, squares = self.gram, self.cross, self.residual_squares
        before = squares
        penalty = ridge * self.gram.trace() / len(self.gram)  # the trace is n times the sum of mean squares
        if self.bias is not None:  # unpenalised, it takes the means out
            bias = wide(self.bias)
            before = squares - 2 * bias @ self.residual + self.count * bias.square().sum()
            gram = gram - torch.outer(self.activation, self.activation) / self.count
            cross = cross - torch.outer(self.activation, self.residual) / self.count
            squares = squares - self.residual.square().sum() / self.count
        ridged = gram.clone()
        ridged.diagonal().add_(penalty.clamp(min=torch.finfo(torch.float32).tiny))
        change = torch.cholesky_solve(cross, torch.linalg.cholesky(ridged))  # [m', d]
        after = squares - 2 * (change * cross).sum() + (change * (gram @ change)).sum()
        self.weight.copy_((self.start + change).to(self.weight.dtype))
        if self.bias is not None:
            bias = (self.residual - self.activation @ change) / self.count
            self.bias.copy_(bias.to(self.bias.dtype))
        return Refit((before / self.output_squares).item(), (after.clamp(min=0) / self.output_squares).item())
