"""How one client's local steps protect its examples: DP-SGD (Abadi et al., arXiv:1607.00133, Algorithm 1).

In each step

    each of the client's n examples is drawn independently with probability q
    the gradient g_i of each drawn example is scaled to norm C at most
    g = (Σ_i g_i·min(1, C/‖g_i‖) + N(0, (z·C)²·I)) / (q·n)

The denominator is fixed: it does not depend on which examples were drawn. A step whose sample is empty is noise alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Spending(NamedTuple):
    """What steps cost: all that an accountant needs.

    Attributes:
        noise_multiplier: z.
        rate: q.
        steps: how many.
    """

    noise_multiplier: float
    rate: float
    steps: int


@dataclass(frozen=True)
class PrivateSteps:
    """The steps of one client in one round.

    Attributes:
        examples: n, of the client; it is taken as known to all.
        steps: how many.
        rate: q, the probability with which an example is in the sample of a step.
        noise_multiplier: z, the standard deviation of the noise over C.
        clip: C, the largest L2 norm of an example's gradient.
    """

    examples: int
    steps: int
    rate: float
    noise_multiplier: float
    clip: float

    @property
    def expected(self) -> float:
        """q·n, the denominator of each step."""
        return self.rate * self.examples

    @property
    def spending(self) -> Spending:
        """What they cost."""
        return Spending(self.noise_multiplier, self.rate, self.steps)

    def plan(self) -> list[np.ndarray]:
        """A Poisson sample of the client's examples for each step, as ascending positions; some may be empty.

        Raises:
            RecipeError: randomgen is not installed.
        """
        from fedfm.privacy.noise import unpredictable  # torch, which settings alone do not need

        generator = unpredictable()
        return [np.flatnonzero(generator.random(self.examples) < self.rate) for _ in range(self.steps)]
