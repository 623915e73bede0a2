"""An update as a site's egress sees it, just before it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.sites.demands import TRAIN
from fedfm.updates import Update, decode_instruction, decode_update

Groups = Mapping[str, Mapping[str, Tensor]]
"""Name of a group → its tensors by name."""

TensorSpec = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor."""

GroupSpecs = Mapping[str, Mapping[str, TensorSpec]]
"""Name of a group → the specs of its tensors by name."""

TUNABLE, ACTIVITY = "tunable", "activity"
"""Groups of an update: values of the tunable, and counts of how much neurons were used."""


@dataclass(frozen=True)
class Departure:
    """An update that is about to leave.

    Attributes:
        round: 1-based round.
        client: client id.
        work: kind of work that it is the result of.
        groups: its tensors.
        tensors: all of them, by their names on the wire.
        steps: optimiser steps that were taken.
        loss: mean training loss of a prediction.
    """

    round: int
    client: str
    work: str
    groups: Groups
    tensors: Mapping[str, Tensor]
    steps: int
    loss: float

    @classmethod
    def read(cls, update: bytes) -> Departure:
        """The update in these bytes.

        Raises:
            MessageError: they are not a valid update.
        """
        found = decode_update(update)
        return cls(
            round=found.round,
            client=found.client,
            work=getattr(found, "work", TRAIN),
            groups=groups_of(found),
            tensors=found.tensors,
            steps=found.steps,
            loss=found.loss,
        )


def groups_of(update: Update) -> Groups:
    """The tensors of an update by group; groups without tensors are left out."""
    groups = {TUNABLE: update.params, ACTIVITY: update.activity}
    return {group: tensors for group, tensors in groups.items() if tensors}


def specs_of(groups: Groups) -> GroupSpecs:
    """Shape and dtype of every tensor of some groups."""
    return {
        group: {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        for group, tensors in groups.items()
    }


def work_of(message: bytes) -> str:
    """The kind of work that a server's message asks for.

    Raises:
        MessageError: it is not a valid message.
    """
    return str(getattr(decode_instruction(message), "work", TRAIN))
