"""The bound: the products of a round's tokens with the frozen matrices of all blocks, forward and backward, alone.

Backward means the gradient by a product's input; frozen matrices need none of their own. Tokens of all clients go
through together, as many at once as fedfm puts together. Attention's own products, norms, adapters, optimiser and
messages are left out; so is that a classifier's last block is needed at one token of each text only.
"""

from __future__ import annotations

import sys

import torch
import transformers
from torch import Tensor, nn

from clock import Clock
from job import Job, data_of

TOKENS = 8192
"""Tokens that fedfm puts through the backbone at once on a CPU."""


def matrices(job: Job) -> list[Tensor]:
    """The matrices of all blocks, [out, in]."""
    model = transformers.AutoModel.from_pretrained(job.folder / "model", dtype=torch.float32)
    blocks = max((module for module in model.modules() if isinstance(module, nn.ModuleList)), key=len)
    dtype = torch.bfloat16 if job.precision == "bfloat16" else torch.float32
    return [module.weight.detach().to(dtype) for module in blocks.modules() if isinstance(module, nn.Linear)]


@torch.inference_mode()
def multiply(weights: list[Tensor], tokens: int) -> None:
    """All products of so many tokens."""
    for weight in weights:
        rows, columns = weight.shape
        x, gradient = (torch.ones(tokens, width, dtype=weight.dtype) for width in (columns, rows))
        nn.functional.linear(x, weight)
        gradient @ weight


def main() -> None:
    """Runs the job given as JSON."""
    job = Job.load(sys.argv[1])
    torch.set_num_threads(job.threads)
    data, clock, weights = data_of(job.folder), Clock(job), matrices(job)
    for number in range(data.rounds):
        for step in range(data.plan.shape[2]):
            tokens = int(data.lengths[data.plan[number, :, step]].sum())
            whole, rest = divmod(tokens, TOKENS)
            for size in [TOKENS] * whole + [rest] * (rest > 0):
                multiply(weights, size)
        clock.lap()
    clock.report(None)


if __name__ == "__main__":
    main()
