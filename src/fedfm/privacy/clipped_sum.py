"""The noisy mean of clipped updates: one private release of a round.

McMahan et al., Learning Differentially Private Recurrent Language Models, arXiv:1710.06963, Algorithm 1, with the
fixed denominator q·N of its estimator f̃_f; Andrew et al., Differentially Private Learning with Adaptive Clipping,
arXiv:1905.03871, Algorithm 1, for the bound C that follows a quantile γ of the clients' norms.

    Δ̄ = ( Σ_i Δ_i·min(1, C/‖Δ_i‖) + N(0, (z_Δ·C)²·I) ) / (q·N)
    b̃ = ( Σ_i (1[‖Δ_i‖ ≤ C] − ½) + N(0, σ_b²) ) / (q·N) + ½,     C ← C·exp(−η·(b̃ − γ))      adaptive only

One client changes the first sum by at most C and the second by at most ½, so that both together have the noise
multiplier z where z_Δ = (z⁻² − (2·σ_b)⁻²)^(−½). ‖Δ_i‖ is over all groups and tensors of the client's update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.params import Params
from fedfm.privacy.base import Charged
from fedfm.privacy.ledger import Charge
from fedfm.privacy.noise import Noise, SystemNoise
from fedfm.spec import Spec

CLIP = "clip"
"""Name of C in the state between rounds."""


@dataclass(frozen=True)
class Adaptation:
    """How C follows the norms.

    Attributes:
        count_noise: σ_b.
        quantile: γ.
        rate: η.
    """

    count_noise: float
    quantile: float
    rate: float


@dataclass(frozen=True)
class Bound:
    """The bound of a round and its noise.

    Attributes:
        clip: C.
        multiplier: z, of all that the round releases.
        sum_multiplier: z_Δ; z where C is fixed.
        adaptation: None where C is fixed.
    """

    clip: float
    multiplier: float
    sum_multiplier: float
    adaptation: Adaptation | None = None


class ClippedSum:
    """The release of one round; a `fedfm.privacy.base.Release`."""

    def __init__(
        self,
        groups: Mapping[str, Spec],
        bound: Bound,
        *,
        expected: float,
        round: int,  # noqa: A002 - the field's word
        charged: Charged,
        noise: Callable[[], Noise] = SystemNoise,
    ) -> None:
        """A release of no updates yet.

        Args:
            groups: what each client sends.
            bound: C and z.
            expected: q·N.
            round: 1-based round.
            charged: as for `fedfm.privacy.base.Privacy.release`.
            noise: makes the source of noise, after the charge.
        """
        self.expected = expected
        self._groups, self._bound, self._round = groups, bound, round
        self._charged, self._noise = charged, noise
        self._sums = {
            group: {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in spec.items()}
            for group, spec in groups.items()
        }
        self._within = 0.0
        """Σ_i (1[‖Δ_i‖ ≤ C] − ½)."""

    def add(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes one client's update, scaled to the bound; one without a finite norm counts as zero."""
        length = norm(groups[group] for group in self._groups)
        self._within += 0.5 if length <= self._bound.clip else -0.5
        if not math.isfinite(length):
            return
        factor = min(1.0, self._bound.clip / max(length, math.ulp(0.0)))
        for group, sums in self._sums.items():
            for name, total in sums.items():
                total.add_(groups[group][name].to(torch.float64, copy=True).mul_(factor))

    def result(self) -> tuple[dict[str, Params], Params]:
        """The private mean by group, in the dtypes of the spec, and the next round's C and what its noise needs."""
        bound = self._bound
        self._charged(Charge(self._round, bound.multiplier, bound.clip))
        noise = self._noise()
        scale = bound.sum_multiplier * bound.clip
        means = {
            group: {
                name: (total.add_(noise(total.shape).mul_(scale)).div_(self.expected)).to(
                    self._groups[group][name].dtype
                )
                for name, total in sums.items()
            }
            for group, sums in self._sums.items()
        }
        clip = torch.tensor(self._next(noise), dtype=torch.float64)
        return means, {CLIP: clip, **noise.state()}

    def _next(self, noise: Noise) -> float:
        """C of the next round."""
        clip, adaptation = self._bound.clip, self._bound.adaptation
        if adaptation is None:
            return clip
        noisy = self._within + adaptation.count_noise * noise(()).item()
        share = noisy / self.expected + 0.5
        return clip * math.exp(-adaptation.rate * (share - adaptation.quantile))


def norm(groups: Iterable[Mapping[str, Tensor]]) -> float:
    """The L2 norm over all tensors of some groups together, in float64."""
    return math.hypot(*(torch.linalg.vector_norm(t.double()).item() for tensors in groups for t in tensors.values()))
