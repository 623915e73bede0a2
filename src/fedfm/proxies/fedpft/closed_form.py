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
from fedfm.proxies.ffn import output_bias, vectors
from fedfm.proxies.hidden import Pairs
from fedfm.proxies.layerwise import LayerwisePass
from fedfm.proxies.trace import Model
from fedfm.tasks.base import Batch


@torch.no_grad()
def refit_outputs(
    student: Model,
    blocks: Sequence[Block],
    pairs: Pairs,
    kept: Mapping[str, Tensor],
    batches: Sequence[Batch],
    ridge: float,
) -> dict[str, Refit]:
    """Refits output matrices and their biases, in place, block by block, starting at the input.

    Args:
        student: the proxy before any other fitting: attention and input matrices are the backbone's.
        blocks: all of the proxy's, in the order of a pass.
        pairs: compressed blocks, the backbone's and the proxy's, in the order of a pass.
        kept: int64 [m'] indices of the kept neurons by the path of the student's block.
        batches: public ones.
        ridge: pull towards the backbone's weights, above 0.

    Returns:
        The relative error before and after each regression, by the path of the student's block.
    """
    student.eval()
    report: dict[str, Refit] = {}
    passing = LayerwisePass(student, blocks, batches)
    for teacher_block, block in steps(pairs, "fitting the proxy in closed form"):
        regression = output_regression(block)
        for call in passing.calls(block.path):
            activations, output, _ = call.run(teacher_block).real()
            regression.add(activations[:, kept[block.path].to(activations.device)], output)
        report[block.path] = regression.solve(ridge)
    return report


def output_regression(block: Block) -> Regression:
    """The regression of a block's output matrix and its bias, which its solution replaces in place."""
    bias = output_bias(block)
    return Regression(vectors(block)[-1], None if bias is None else block.module.get_parameter(bias))
