"""Inner product manipulation (IPM): attackers send the opposite of the honest mean.

Xie et al., Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation, arXiv:1903.03936, §4: −ε·µ.
A small ε stays near the honest updates and turns the aggregate slowly; a large one reverses the mean.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedfm.clients.attackers.base import Attack
from fedfm.clients.attackers.honest import HonestUpdates
from fedfm.params import Params, map_params


class Ipm(Attack):
    """Attackers send the opposite of the honest mean."""

    kind: Literal["ipm"] = "ipm"
    """Attackers send the opposite of the mean of the honest updates, multiplied by `epsilon`."""
    epsilon: Annotated[float, Field(gt=0)] = 2.0
    """ε."""

    colludes: ClassVar[bool] = True

    def collude(self, honest: HonestUpdates, attackers: int) -> Params:
        """−ε·µ."""
        return map_params(lambda mean: -self.epsilon * mean, honest.mean())
