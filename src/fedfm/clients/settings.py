"""How a client trains between receiving the tunable and sending its update."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedfm.data.streams.replay import Replay
from fedfm.settings import Settings

Recompute = Literal["none", "attention", "blocks"]


class LocalSettings(Settings):
    """The recipe's ``local``."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Passes over the client's examples a round."""
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Optimiser steps a round, in place of `epochs`: the examples are passed over as often as it takes."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    """Examples a step."""
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """Local optimiser; `muon` orthogonalises the steps of the matrices inside the model's blocks, and takes AdamW for
    embeddings, heads, norms and biases (docs/methods/pretraining.md)."""
    keep_optimizer: bool = False
    """Keep the optimiser's moments at the client from round to round; otherwise it starts afresh in each round (as in
    FedPFT, arXiv:2404.11536, §3.4 of its code)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """β of `sgd`: v ← β·v + g, w ← w − η·v, with v = 0 at the start of a round, or, with `keep_optimizer`, as the last
    one left it; 0: plain SGD."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Learning rate at the start of the run, or after the warm-up."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls over the run."""
    lr_scheduler_interval: Literal["round", "step"] = "round"
    """When the learning rate changes: between rounds, or at each local step of the run."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the run in which the learning rate rises linearly, before it falls."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the gradient of all tunable parameters to this L2 norm."""
    logit_adjustment: Annotated[float, Field(ge=0)] = 0.0
    """τ: add τ·log π to a classifier's logits in the training loss, π the client's own shares of the classes, each
    counted once more than it occurs, so that clients do not learn these shares (arXiv:2007.07314, eq. 10); 0: no."""
    replay: Replay | None = None
    """What a client keeps of the earlier tasks of `federation.stream`, to train on it again; null: nothing."""
    dropout: bool = False
    """Keep the backbone's own dropout on during local training; the tunable's (`tune.lora_dropout`) is always on."""
    recompute: Recompute = "none"
    """What is computed again in the backward pass instead of kept, to save memory: `attention`, or whole `blocks`."""

    def steps(self, examples: int) -> int:
        """Optimiser steps a round of a client with so many examples."""
        return self.max_steps or self.epochs * math.ceil(examples / self.batch_size)

    @model_validator(mode="after")
    def _something_to_keep(self) -> Self:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum: {self.optimizer} has its own; use optimizer=sgd, or momentum=0")
        if self.keep_optimizer and not self.moments:
            raise ValueError(
                "keep_optimizer: sgd without momentum has no moments to keep; use adamw, muon or a momentum above 0, "
                "or keep_optimizer=false"
            )
        return self

    @property
    def moments(self) -> int:
        """Values that the optimiser keeps for each trained parameter, at most."""
        return int(self.momentum > 0) if self.optimizer == "sgd" else 2

    def learning_rate_at(self, number: int, total: int) -> float:
        """Learning rate of 1-based ``number`` of ``total`` rounds or steps.

        After W = `warmup_ratio`·total of them, in which it is lr·min(1, number/W), the share d = (number − 1 − W) /
        (total − W) of the rest is done: linear is lr·(1 − d), cosine lr·(1 + cos(π·d))/2.
        """
        warm = self.warmup_ratio * total
        rising = min(1.0, number / warm) if warm else 1.0
        done = max(0.0, number - 1 - warm) / (total - warm)
        factor = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return self.learning_rate * rising * factor[self.lr_scheduler_type]

    def step_rates(self, round: int, rounds: int, steps: int) -> list[float] | None:  # noqa: A002 - the field's word
        """Learning rate of each of a client's ``steps`` in a round; None where one holds for all.

        A round is the same share of the run for every client, whatever the number of its steps.
        """
        if self.lr_scheduler_interval == "round":
            return None
        before = (round - 1) * steps
        return [self.learning_rate_at(before + number, rounds * steps) for number in range(1, steps + 1)]
