"""Checks that a model predicts each token without reading it, which causal language modelling requires.

A model that reads the tokens that it predicts reaches a perplexity near 1 without learning anything. This is measured,
since the type of a model does not tell it (encoders with a language head, decoders configured to look ahead, prefix
language models).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.randomness import numpy_generator
from fedfm.tasks.base import Batch

if TYPE_CHECKING:
    from fedfm.tasks.language_modeling import CausalLM

TOLERANCE = 1e-5
"""Change of a prediction, as a share of the largest logit, that is attributed to rounding."""

_LENGTH = 8


def refuse_look_ahead(task: CausalLM, tunable: Tunable, tokenizer: Any, name: str) -> None:
    """Refuses a model whose predictions depend on later tokens.

    Each token of two sequences is changed in turn, in a batch without padding and in one with padding on the right.
    The predictions before the token must not change. The model is checked with its tunable attached, as it trains.

    Args:
        task: selects the logits that predict each token.
        tunable: attached to the model.
        tokenizer: of the model.
        name: of the model, for the message.

    Raises:
        RecipeError: at ``task.kind``: a prediction depends on a later token.
    """
    tunable.eval()
    for lengths in ((_LENGTH, _LENGTH), (_LENGTH, _LENGTH // 2)):
        if (moved := _moved(task, tunable, tokenizer, lengths)) > TOLERANCE:
            raise RecipeError(
                f"{name} reads the tokens that it must predict: a change of a later token changes earlier predictions "
                f"by {moved:.2g} of the largest logit, so a perplexity would be meaningless; choose a decoder as "
                "`model.path`, or `task.kind: masked-lm` for an encoder",
                where="task.kind",
            )


@torch.no_grad()
def _moved(task: CausalLM, tunable: Tunable, tokenizer: Any, lengths: tuple[int, ...]) -> float:
    """The largest change of a prediction caused by a later token, as a share of the largest logit."""
    generator = numpy_generator(0, "causality")
    words = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    before, after, changed = [], [], []
    for length in lengths:
        ids = generator.choice(words, length).tolist()
        for place in range(1, length):
            other = generator.choice([word for word in words[:_LENGTH] if word != ids[place]])
            before.append({"input_ids": ids})
            after.append({"input_ids": [*ids[:place], int(other), *ids[place + 1 :]]})
            changed.append(place)
    collate = task.collate(tokenizer, seed=0)  # both batches have the same shape, and so the same rounding
    was, now = (_predictions(task, tunable, collate(rows)) for rows in (before, after))
    earlier = torch.arange(was.shape[1]) < torch.tensor(changed).unsqueeze(1)
    largest = was.abs().max().clamp(min=torch.finfo(was.dtype).tiny)
    return float((was - now).abs().amax(-1)[earlier.to(was.device)].max() / largest)


def _predictions(task: CausalLM, tunable: Tunable, batch: Batch) -> torch.Tensor:
    """Logits ``[B, T − 1, V]``; those at position t predict token t + 1."""
    device = tunable.base_model.device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    return task.predicting(task.outputs(tunable.model, batch), batch)
