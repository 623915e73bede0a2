"""One of several heads: the part of a classifier's outputs that belongs to one task."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fedfm.models.processors import Processor
from fedfm.models.quiet import quiet
from fedfm.models.tunable import Tunable
from fedfm.views.heads import output_tensors


@torch.no_grad()
def keep_outputs(model: nn.Module, outputs: slice, total: int) -> None:
    """Removes the other outputs of a model with an adapter or without, in place; it can no longer be trained.

    Args:
        model: a sequence classifier.
        outputs: those that remain.
        total: how many there are.
    """
    parameters = dict(model.named_parameters())
    for name in output_tensors({name: tuple(tensor.shape) for name, tensor in parameters.items()}, total):
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        setattr(module, attribute, nn.Parameter(parameters[name][outputs].clone(), requires_grad=False))
        if isinstance(module, nn.Linear):
            module.out_features = outputs.stop - outputs.start


def save_head(tunable: Tunable, folder: Path, outputs: slice, total: int, processor: Processor) -> None:
    """Writes an adapter whose head has some of the outputs, for PEFT.

    Args:
        tunable: an adapter.
        folder: to write into.
        outputs: that the head keeps.
        total: how many there are.
        processor: written beside it.
    """
    state = tunable.peft_state()
    last = output_tensors({name: tuple(tensor.shape) for name, tensor in state.items()}, total)
    own = {name: tensor[outputs].clone() if name in last else tensor for name, tensor in state.items()}
    with quiet():
        tunable.model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=own)
        processor.save_pretrained(folder)
