"""A compressed FFN's output matrix in closed form: ridge regression of the whole FFN's output on the kept neurons.

With a the activations of the backbone's FFN on the proxy's own input, and S the neurons kept, Ŵ₂ and b̂₂ are those of
`fedfm.proxies.fedpft.regression` for inputs a_S, wanted outputs W₂a + b₂ and the weights W₂[:, S], over the real
positions of public data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedfm.models.families import Block
from fedfm.progress import steps
from fedfm.proxies.fedpft.regression import Refit, Regression
from fedfm.proxies.ffn import output_bias, output_layer, vectors
from fedfm.proxies.hidden import Pairs
from fedfm.proxies.trace import Model, block_arguments, real_positions
from fedfm.tasks.base import Batch


@torch.no_grad()
def refit_outputs(
    student: Model, pairs: Pairs, kept: Mapping[str, Tensor], batches: Sequence[Batch], ridge: float
) -> dict[str, Refit]:
    """Refits output matrices and their biases, in place, block by block, starting at the input.

    Args:
        student: the proxy before any other fitting: attention and input matrices are the backbone's.
        pairs: compressed blocks, the backbone's and the proxy's, in the order of a pass.
        kept: int64 [m'] indices of the kept neurons by the path of the student's block.
        batches: public ones; each is passed once for every block.
        ridge: pull towards the backbone's weights, above 0.

    Returns:
        The relative error before and after each regression, by the path of the student's block.
    """
    student.eval()
    report: dict[str, Refit] = {}
    for teacher_block, block in steps(pairs, "fitting the proxy in closed form"):
        bias = output_bias(block)
        regression = Regression(vectors(block)[-1], None if bias is None else block.module.get_parameter(bias))
        for batch in batches:
            arguments, named = block_arguments(student, block, batch)
            activation, output = _ffn(teacher_block, arguments, named)
            mask = batch.get("attention_mask")
            neurons = kept[block.path].to(activation.device)
            regression.add(real_positions(activation, mask)[:, neurons], real_positions(output, mask))
        report[block.path] = regression.solve(ridge)
    return report


def _ffn(block: Block, arguments: tuple[object, ...], named: dict[str, object]) -> tuple[Tensor, Tensor]:
    """Activations ``[…, m]`` and output ``[…, d]`` of the FFN when a block is called with these arguments."""
    seen: list[tuple[Tensor, Tensor]] = []
    with output_layer(block).register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output))):
        block.module(*arguments, **named)
    return seen[0]
