"""Checks that packed conversations do not attend to each other, which is measured: not every model reads positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fedfm.data.conversations.packing import POSITIONS
from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.randomness import numpy_generator

if TYPE_CHECKING:
    from fedfm.tasks.instruction import Instruct

TOLERANCE = 1e-4
"""Difference of a prediction, as a share of the largest logit, that is attributed to rounding."""

_LENGTH = 6


@torch.no_grad()
def refuse_leaks(task: Instruct, tunable: Tunable, tokenizer: Any, name: str) -> None:
    """Refuses a model in which a packed conversation is predicted differently from the same conversation alone.

    Args:
        task: makes the batches.
        tunable: attached to the model.
        tokenizer: of the model.
        name: of the model, for the message.

    Raises:
        RecipeError: at ``data.pack``.
    """
    generator = numpy_generator(0, "isolation")
    words = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    first, second = (generator.choice(words, _LENGTH).tolist() for _ in range(2))
    collate, device = task.collate(tokenizer, seed=0), tunable.base_model.device
    places = list(range(_LENGTH))
    packed = collate([{"input_ids": [*first, *second], POSITIONS: [*places, *places]}])
    alone = collate([{"input_ids": second}])
    tunable.eval()
    together, apart = (
        task.outputs(tunable.model, {key: tensor.to(device) for key, tensor in batch.items()})[:, -_LENGTH:]
        for batch in (packed, alone)
    )
    difference = float((together - apart).abs().max() / apart.abs().max().clamp(min=torch.finfo(apart.dtype).tiny))
    if difference > TOLERANCE:
        raise RecipeError(
            f"conversations that share an example attend to each other in {name} with this tunable: predictions change "
            f"by {difference:.2g} of the largest logit; set it to false",
            where="data.pack",
        )
