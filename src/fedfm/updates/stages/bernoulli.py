"""Bernoulli: one bit for each score of a mask, 1 with the probability that the score stands for.

Isik et al., Sparse Random Networks for Communication-Efficient Federated Learning, arXiv:2209.15328, Algorithm 1. Of
the scores s that a client has trained it sends

    m ~ Bernoulli(σ(s)),   so that E[m] = σ(s)

Eight of these bits are in a byte. Tensors that are no scores, such as those of a head, pass unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedfm.capabilities import SCORES_SENT, SCORES_SENT_AS_MASKS
from fedfm.models.mask_scores import are_scores
from fedfm.params import Params, is_finite
from fedfm.spec import Spec, TensorSpec, count, spec_of
from fedfm.updates.stages.base import Stage
from fedfm.updates.stages.flat import flatten, prefix, unflatten


class Bernoulli(Stage):
    """Send one bit for each score of a mask, drawn with its probability."""

    comes_first: ClassVar[bool] = True
    needs = {SCORES_SENT: "it draws from scores, not from their changes"}
    gives = frozenset({SCORES_SENT_AS_MASKS})

    kind: Literal["bernoulli"] = "bernoulli"
    """Send one bit for each score of a mask, drawn with its probability."""
    direction: Literal["up"] = "up"
    """Updates to the server only: a client needs the probabilities."""

    def spec(self, spec: Spec) -> Spec:
        """Bits, eight in a byte, in place of scores; others are unchanged."""
        scores, others = _split(spec)
        bits = {f"{prefix(self.kind, scores)}.bits": TensorSpec((-(-count(scores) // 8),), torch.uint8)}
        return {**(bits if scores else {}), **others}

    def encode(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """The mask m.

        Raises:
            FloatingPointError: a score is not finite, which no bit can say.
        """
        scores, others = _split(spec_of(params))
        sent = {name: params[name] for name in others}
        if not scores:
            return sent, own
        if bad := next((name for name in scores if not is_finite(params[name])), None):
            raise FloatingPointError(f"scores `{bad}` are not finite; try a lower local.learning_rate")
        kept = torch.sigmoid(flatten(params, scores).double()).cpu().numpy()
        bits = torch.from_numpy(np.packbits(generator.random(len(kept)) < kept))
        return {f"{prefix(self.kind, scores)}.bits": bits, **sent}, own

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """The mask: 1 where an entry is kept, 0 elsewhere."""
        scores, others = _split(spec)
        found = {name: params[name] for name in others}
        if not scores:
            return found
        bits = np.unpackbits(params[f"{prefix(self.kind, scores)}.bits"].numpy(), count=count(scores))
        return {**unflatten(torch.from_numpy(bits), scores), **found}


def _split(spec: Spec) -> tuple[Spec, Spec]:
    """Scores, sorted by name; and the others."""
    scores = {name: spec[name] for name in sorted(spec) if are_scores(name)}
    return scores, {name: tensor for name, tensor in spec.items() if name not in scores}
