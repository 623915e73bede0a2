"""A little is enough (ALIE): attackers shift every coordinate by as much as its spread hides.

Baruch et al., A Little Is Enough: Circumventing Defenses For Distributed Learning, arXiv:1902.06156, Algorithm 3. With
mean µ and standard deviation σ of the honest updates at each coordinate, n updates and f attackers:

    µ − z·σ,   z = Φ⁻¹((n − f − s) / (n − f)),   s = ⌊n/2⌋ + 1 − f

so that s honest values are further from the mean than the attackers' one, and the median may be theirs.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedfm.clients.attackers.base import Attack
from fedfm.clients.attackers.honest import HonestUpdates
from fedfm.params import Params, map_params


class Alie(Attack):
    """Attackers shift every coordinate by as much as its spread hides."""

    kind: Literal["alie"] = "alie"
    """Attackers send the mean of the honest updates, shifted by z standard deviations (ALIE)."""
    z: Annotated[float, Field(gt=0)] | None = None
    """Standard deviations of the shift; null: as many as the numbers of clients and attackers hide."""

    colludes: ClassVar[bool] = True

    def collude(self, honest: HonestUpdates, attackers: int) -> Params:
        """µ − z·σ."""
        z = hidden_shift(len(honest) + attackers, attackers) if self.z is None else self.z
        return map_params(lambda mean, spread: mean - z * spread, honest.mean(), honest.deviation())


def hidden_shift(clients: int, attackers: int) -> float:
    """z of ``clients`` with so many attackers among them; 0 where they are the majority."""
    honest = clients - attackers
    supporters = clients // 2 + 1 - attackers
    share = (honest - supporters) / honest
    return max(0.0, NormalDist().inv_cdf(share)) if 0 < share < 1 else 0.0
