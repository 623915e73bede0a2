"""``profile.json``: the time of a run by phase, and the share of this machine's peak speed that training reached."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from fedfm.clients import Stacking, gemm_peak
from fedfm.models.families import Block, blocks
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.state import RunState


def profile_of(experiment: Experiment, state: RunState) -> dict[str, Any]:
    """The profile of a run, as JSON.

    ``seconds`` are wall times of the run by phase; those under ``training`` are sums over processes. ``operations``
    counts the operations of the blocks' frozen matrices on the real tokens of the examples: two a weight and token
    forward and two backward (also where no gradient is needed below). Frozen first blocks that are computed once an
    example are not counted; of a last block that computes one token of an example, only keys, values and queries are
    counted. It is null for a model whose matrices are not all described. ``share`` is the speed relative to the best
    matrix product of the same shape in one process of this machine.

    Raises:
        ValueError: the run was not profiled.
    """
    worker = experiment.worker
    if worker is None or worker.profile is None:
        raise ValueError("the run was not profiled")
    stacking, training = worker.own.stacking, worker.profile.record()["seconds"]
    busy = sum(training.values())
    threads = 1 if experiment.processes > 1 else torch.get_num_threads()
    operations, peak = None, None
    if experiment.backbone.family.uncuttable is None:
        operations = 4.0 * (worker.profile.tokens * _tokens_each(experiment) * _weights(experiment, stacking))
        peak = _peak(experiment, stacking, threads)
    speed = operations / busy if operations and busy else None
    return {
        "seconds": {name: round(value, 3) for name, value in state.seconds.items()},
        "training": {name: round(value, 3) for name, value in training.items()},
        "processes": experiment.processes,
        "threads": threads,
        "tokens": worker.profile.tokens * _tokens_each(experiment),
        "operations": operations,
        "operations_a_second": speed,
        "gemm_peak": peak,
        "share": speed / peak if speed and peak else None,
    }


def _tokens_each(experiment: Experiment) -> int:
    """Tokens of an example: 1 for text, whose tokens are counted; the patches of an image plus one."""
    config = experiment.client_model.client_tunable.base_model.config
    if experiment.data.task.modality == "text":
        return 1
    vision = getattr(config, "vision_config", config)
    return int(vision.image_size // vision.patch_size) ** 2 + 1


def _weights(experiment: Experiment, stacking: Stacking | None) -> int:
    """Number of weights of the matrices that each token of an example passes in the blocks of a client's model."""
    model, family = experiment.client_model.client_tunable.base_model, experiment.backbone.family
    chain = blocks(model, family)
    total = 0
    prefix = stacking.prefix if stacking else None
    for block in chain[prefix.start if prefix else 0 :]:
        stack = block.stack
        first_only = block is chain[-1] and stacking is not None and stacking.blocks.first_only and family.first_token
        paths = stack.attention[0].inputs if first_only else stack.matrices
        for path in dict.fromkeys(paths):
            total += _matrix(block, path).numel()
    return total


def _matrix(block: Block, path: str) -> Tensor:
    """A frozen matrix of a block, inside any adapter."""
    module = block.module.get_submodule(path)
    layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    return cast(Tensor, layer.weight)


def _peak(experiment: Experiment, stacking: Stacking | None, threads: int) -> float:
    """The best speed of a matrix product of a pass's tokens with a whole FFN matrix, in the precision of the blocks."""
    block = blocks(experiment.backbone.model, experiment.backbone.family)[0]
    outer, inner = _matrix(block, block.stack.dense_ffn.inputs[0]).shape
    dtype = (stacking.blocks.dtype if stacking else None) or torch.float32
    return gemm_peak(2048, inner, outer, dtype, experiment.device, threads)
