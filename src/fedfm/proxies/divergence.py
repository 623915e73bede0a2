"""Predictions of backbone and proxy: one pass that gives them with hidden states, and how far they differ."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import kl_div

from fedfm.models.families import Block
from fedfm.proxies.probes import predictions
from fedfm.proxies.trace import Model, base_of, collecting
from fedfm.tasks.base import TARGETS, Batch


def states_and_logits(model: Model, blocks: Sequence[Block], batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """One pass through a whole model; labels are ignored.

    Args:
        model: with a head.
        blocks: those whose hidden states are wanted.
        batch: public examples.

    Returns:
        The hidden state after each block, ``[B, T, d]`` by the block's path, without virtual tokens; and the logits of
        single predictions, ``[N, C]``: one an example, or one at each real position.
    """
    device = base_of(model).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name not in TARGETS}
    with collecting(blocks) as states:
        logits = model(**inputs).logits
    length = batch["attention_mask"].shape[1] if "attention_mask" in batch else None
    if length is not None:  # a prompt's virtual tokens stand before the text
        states = {path: state[:, -length:] for path, state in states.items()}
    return states, predictions(logits, inputs.get("attention_mask")).float()


def divergence(wanted: Tensor, found: Tensor, temperature: float = 1.0) -> Tensor:
    """The mean of KL(p_wanted ‖ p_found) over predictions, nats, a scalar.

    Args:
        wanted: logits ``[N, C]``.
        found: logits, likewise.
        temperature: both are divided by it.
    """
    p, q = ((logits / temperature).log_softmax(-1) for logits in (wanted, found))
    return kl_div(q, p, reduction="batchmean", log_target=True)
