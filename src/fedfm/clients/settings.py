"""How a client trains between receiving the tunable and sending its update."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from fedfm.settings import Settings

Recompute = Literal["none", "attention", "blocks"]


class LocalSettings(Settings):
    """The recipe's ``local``. The optimiser starts afresh every round (FedPFT, arXiv:2404.11536, §3.4 of its code)."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Passes over the client's examples a round."""
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Optimiser steps a round, in place of `epochs`: the examples are passed over as often as it takes."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    """Examples a step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Local optimiser."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Learning rate of the first round."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls over the rounds; it is constant inside a round."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the gradient of all tunable parameters to this L2 norm."""
    logit_adjustment: Annotated[float, Field(ge=0)] = 0.0
    """τ: add τ·log π to a classifier's logits in the training loss, π the client's own shares of the classes, each
    counted once more than it occurs, so that clients do not learn these shares (arXiv:2007.07314, eq. 10); 0: no."""
    dropout: bool = False
    """Keep the backbone's own dropout on during local training; the tunable's (`tune.lora_dropout`) is always on."""
    recompute: Recompute = "none"
    """What is computed again in the backward pass instead of kept, to save memory: `attention`, or whole `blocks`."""

    def steps(self, examples: int) -> int:
        """Optimiser steps a round of a client with so many examples."""
        return self.max_steps or self.epochs * math.ceil(examples / self.batch_size)

    def learning_rate_at(self, round: int, rounds: int) -> float:  # noqa: A002 - the field's word
        """Learning rate of 1-based ``round`` of ``rounds``: linear is lr·(R−r+1)/R, cosine lr·(1+cos(π(r−1)/R))/2."""
        done = (round - 1) / rounds
        factor = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return self.learning_rate * factor[self.lr_scheduler_type]
