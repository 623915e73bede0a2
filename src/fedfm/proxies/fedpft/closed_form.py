"""A compressed FFN's output matrix in closed form: ridge regression on the activations of the kept neurons.

Ŵ₂ and b̂₂ are those of `fedfm.proxies.fedpft.regression`, over the real positions of public data, layer by layer; each
layer reads what the layers before it, refitted already, hand it.

Before training, with a the activations of the backbone's FFN on the proxy's own input and S the neurons kept, inputs
are a_S, wanted outputs W₂a + b₂, given weights W₂[:, S]. In an alignment, backbone and proxy both carry the aggregate;
with x what the FFN's output is added to, wanted is what takes the proxy's sum to the backbone's, FFN(x_T) + x_T − x_S,
and the given weights are the proxy's present ones. The same is wanted before training where the proxy's matrices are
rounded (`proxy.bits`), of the backbone's block on the proxy's own input: W₂ then makes up for the rounding too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from fedfm.models.families import Block
from fedfm.progress import steps
from fedfm.proxies.fedpft.regression import Refit, RidgeRegression
from fedfm.proxies.ffn import output_bias, vectors
from fedfm.proxies.hidden import Pairs
from fedfm.proxies.layerwise import Call, LayerwisePass
from fedfm.proxies.trace import Model
from fedfm.tasks.base import Batch

FITTING_TOKENS, ALIGNMENT_TOKENS = 16_384, 4_096
"""Tokens of public data that scores of neurons and regressions read, before training and in an alignment; all, where
there are fewer. An alignment starts from the matrices that earlier ones have fitted."""

FITTING_SIZE = 16
"""Public examples in a batch of them."""


@torch.no_grad()
def refit_outputs(
    student: Model,
    blocks: Sequence[Block],
    pairs: Pairs,
    kept: Mapping[str, Tensor],
    batches: Sequence[Batch],
    ridge: float,
    *,
    rounded: bool = False,
) -> dict[str, Refit]:
    """Refits output matrices and their biases, in place, block by block, starting at the input.

    Args:
        student: the proxy before any other fitting: attention and input matrices are the backbone's, or rounded.
        blocks: all of the proxy's, in the order of a pass.
        pairs: compressed blocks, the backbone's and the proxy's, in the order of a pass.
        kept: int64 [m'] indices of the kept neurons by the path of the student's block.
        batches: public ones.
        ridge: pull towards the backbone's weights, above 0.
        rounded: whether they are.

    Returns:
        The relative error before and after each regression, by the path of the student's block.
    """
    student.eval()
    report: dict[str, Refit] = {}
    passing = LayerwisePass(student, blocks, batches)
    for teacher_block, block in steps(pairs, "fitting the proxy in closed form"):
        regression, adds = output_regression(block), None
        for call in passing.calls(block.path):
            activations, wanted, target = call.run(teacher_block).real()
            if rounded:
                adds = call.adds_output() if adds is None else adds
                _add_corrected(regression, call, wanted, target, adds=adds)
            else:
                regression.add(activations[:, kept[block.path].to(activations.device)], wanted)
        report[block.path] = regression.solve(ridge)
    return report


@torch.no_grad()
def realign_outputs(teacher: LayerwisePass, student: LayerwisePass, pairs: Pairs, ridge: float) -> dict[str, Refit]:
    """Refits output matrices and their biases to the backbone's hidden states, in place, block by block.

    Where a block changes the FFN's output before it adds it (Gemma 2, OLMo 2), the backbone's output is wanted instead.

    Args:
        teacher: a pass through the backbone with the aggregated tunable.
        student: a pass through the proxy with the same, over the same batches.
        pairs: compressed blocks, the backbone's and the proxy's, in the order of a pass.
        ridge: pull towards the present weights, above 0.

    Returns:
        The relative error before and after each regression, by the path of the proxy's block.
    """
    report: dict[str, Refit] = {}
    for shown, block in steps(pairs, "aligning the proxy in closed form"):
        regression, adds = output_regression(block), None
        for theirs, ours in zip(teacher.calls(shown.path), student.calls(block.path), strict=True):
            adds = ours.adds_output() if adds is None else adds
            _, wanted, target = theirs.run().real()
            _add_corrected(regression, ours, wanted, target, adds=adds)
        report[block.path] = regression.solve(ridge)
    return report


def _add_corrected(regression: RidgeRegression, call: Call, wanted: Tensor, target: Tensor, *, adds: bool) -> None:
    """Adds activations of the proxy's FFN, and the outputs that take its sums to ``target``, the backbone's.

    What a tunable adds to the output is not the matrix's, and stays as it is: only the change is regressed.

    Args:
        regression: of the block's output matrix.
        call: of the proxy's block.
        wanted: outputs of the backbone's FFN, for blocks that change the output before they add it.
        target: the backbone's sums.
        adds: whether the block adds the output as it is.
    """
    activations, output, total = call.run().real()
    change = target - total if adds else wanted - output
    regression.add_change(activations, output + change, change)


def output_regression(block: Block) -> RidgeRegression:
    """The regression of a block's output matrix and its bias, which its solution replaces in place."""
    bias = output_bias(block)
    return RidgeRegression(vectors(block)[-1], None if bias is None else block.module.get_parameter(bias))


def residuals(refits: Mapping[str, Refit]) -> dict[str, float]:
    """The relative error before and after regressions, the mean over blocks."""
    return {
        "residual_before": fmean(refit.before for refit in refits.values()),
        "residual_after": fmean(refit.after for refit in refits.values()),
    }
