"""Label flipping: attackers train on wrong labels, class k as C − 1 − k.

Fang et al., Local Model Poisoning Attacks to Byzantine-Robust Federated Learning, arXiv:1911.11815, §5.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from fedfm.capabilities import LABELS
from fedfm.clients.attackers.base import Attack


class LabelFlip(Attack):
    """Attackers train on wrong labels."""

    kind: Literal["label-flip"] = "label-flip"
    """Attackers train on wrong labels, class k as C − 1 − k."""

    poisons: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {**Attack.needs, LABELS: "it changes them"}

    def relabel(self, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """C − 1 − k."""
        return len(names) - 1 - labels
