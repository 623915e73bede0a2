"""Client-level differential privacy with a trusted server (DP-FedAvg).

McMahan et al., Learning Differentially Private Recurrent Language Models, arXiv:1710.06963, Algorithm 1; adaptive
clipping by Andrew et al., arXiv:1905.03871. In each round

    each client is drawn independently with probability q
    its update over all groups is scaled to norm C at most
    Δ̄ = (Σ clipped updates + N(0, (z·C)²·I)) / (q·N)

The denominator is fixed, and every client weighs the same: a weight by numbers of examples would let one client move
Δ̄ by more than C/(q·N). Rule and algorithm get Δ̄ as if it were the update of one client, so that all they do with it is
post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fedfm import capabilities
from fedfm.errors import RecipeError
from fedfm.privacy.accounting import calibrated
from fedfm.privacy.attendance import Attendance
from fedfm.privacy.base import Charged, Privacy
from fedfm.privacy.correlated import best_bands, coefficients, sensitivity
from fedfm.privacy.promise import Promise

if TYPE_CHECKING:
    from fedfm.params import Params
    from fedfm.privacy.base import Release
    from fedfm.privacy.clipped_sum import Adaptation
    from fedfm.spec import Spec

Positive = Annotated[float, Field(gt=0)]


class Central(Privacy):
    """Each client is protected as a whole: the server clips its update and adds noise to the sum (DP-FedAvg)."""

    kind: Literal["central"] = "central"
    """Each client is protected as a whole: the server clips its update and adds noise to the sum (DP-FedAvg)."""
    epsilon: Positive | None = None
    """ε that the run must not exceed; null: any. Without `noise_multiplier`, the noise is chosen so that all rounds
    cost this much; with it, the run ends before the round that would cost more."""
    noise_multiplier: Positive | None = None
    """z: standard deviation of the noise in the sum of a round over the clipping bound; null: as `epsilon` needs."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """δ; it must be below 1 / number of clients."""
    clip: Positive | Literal["adaptive"] = 1.0
    """C: the largest L2 norm of a client's update; a longer one is scaled down. `adaptive`: the server follows a
    quantile of the norms, with noise that is part of the promise."""
    initial_clip: Positive = 0.1
    """C of the first round, with `clip: adaptive`."""
    clip_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """γ: share of the clients whose updates are not scaled down, with `clip: adaptive`."""
    clip_learning_rate: Positive = 0.2
    """η: how fast C follows, with `clip: adaptive`."""
    clip_count_noise: Positive | None = None
    """σ_b: standard deviation of the noise in the number of clients below C, with `clip: adaptive`; null: 1/20 of the
    expected clients of a round."""
    mechanism: Literal["independent", "bisr"] = "independent"
    """Noise of different rounds: `independent`, or `bisr`, where later rounds take back a part of what earlier ones
    added; it needs `federation.sampling: cyclic`, or all clients in every round."""
    bands: Annotated[int, Field(ge=1, le=64)] | None = None
    """p: rounds over which the noise of `mechanism: bisr` is correlated; null: what gives the least error."""
    accountant: Literal["pld", "rdp"] = "pld"
    """How ε is computed: `pld` by privacy loss distributions, `rdp` by Rényi divergences, which gives a larger ε."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.ROUND_SUM: "noise is added once, to the sum of the updates of a round",
        capabilities.WHOLE_VIEWS: "every client of a round sends the same tensors, and one denominator fits them all",
        capabilities.ONE_MODEL: "what clients keep for themselves would reach adapter/ as a mean without noise",
        capabilities.UPDATES_IN_CLEAR: "the server clips each client's update",
        capabilities.STEADY_CLIENTS: "its accountant draws from all clients in every round",
        capabilities.STEADY_EXAMPLES: "who takes part must not depend on what clients hold",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.INDIVIDUAL_UPDATES: "only one mean with noise leaves the sum of a round",
        capabilities.EXAMPLE_COUNTS: "one client must not count more than another, or the noise is too small for it",
        capabilities.FREE_NORMS: "it bounds the norms of updates itself (privacy.clip)",
        capabilities.UPDATES_AS_SENT: "it scales updates down and adds noise, so that what was sent is not what counts",
        capabilities.CLIENT_FIGURES: "there is no noise in them",
    }

    @model_validator(mode="after")
    def _has_noise(self) -> Self:
        if self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("needs a target ε (`privacy.epsilon`) or `privacy.noise_multiplier`")
        if self.mechanism != "independent" and self.clip == "adaptive":
            raise ValueError("the noise of earlier rounds is taken back in units of one bound: set `privacy.clip`")
        return self

    @property
    def norm_bound(self) -> float:
        """C of the first round."""
        return self.initial_clip if self.clip == "adaptive" else self.clip

    def refuses(self, attendance: Attendance) -> str | None:
        """As `fedfm.privacy.Privacy.refuses`."""
        clients, cohort = attendance.clients, attendance.cohort
        if self.delta * clients >= 1:
            return (
                f"`privacy.delta: {self.delta:g}` is not below 1 / {clients} clients (federation.clients), and would "
                "allow the release of one client's data as they are: set a smaller one"
            )
        if attendance.sampled and self.mechanism != "independent":
            return (
                f"`privacy.mechanism: {self.mechanism}` needs to know when each client takes part, which Poisson "
                "samples leave to chance: set federation.sampling=cyclic, or privacy.mechanism=independent"
            )
        if not attendance.sampled and attendance.separation is None:
            return (
                f"a round with a fixed number of clients ({cohort:g} of {clients}) is no Poisson sample, and its ε "
                "would be stated too small: set federation.sampling=poisson or cyclic, or ask all clients "
                "(federation.per_round)"
            )
        return None

    def promise(self, attendance: Attendance) -> Promise:
        """As `fedfm.privacy.Privacy.promise`."""
        if reason := self.refuses(attendance):
            raise RecipeError(reason, where="privacy.kind")
        rate, z = attendance.rate, self.noise_multiplier
        bands, separation = self._bands(attendance), attendance.separation or 1
        # Without a schedule, or where each round is one release as any other, rounds are composed.
        joint = bands > 1 or separation > 1
        releases = 1 if joint else attendance.rounds
        if z is None:
            z = calibrated(self.accountant, self.epsilon or math.inf, rate, releases, self.delta)  # one of both is set
        moved = sensitivity(bands, attendance.rounds, separation) if joint else 1.0
        self._adaptation(attendance.cohort, z * moved)
        promise = Promise("client", self.delta, z, rate, attendance.cohort, self.accountant, self.epsilon)
        if not joint:
            return promise
        return replace(promise, joint=True, planned=attendance.rounds, sensitivity=moved, bands=bands)

    def _bands(self, attendance: Attendance) -> int:
        """p; 1 for independent noise."""
        if self.mechanism == "independent":
            return 1
        return self.bands or best_bands(attendance.rounds, attendance.separation or 1)

    def release(
        self,
        promise: Promise,
        groups: Mapping[str, Spec],
        *,
        round: int,  # noqa: A002 - the field's word
        state: Params,
        charged: Charged,
    ) -> Release:
        """The noisy mean of clipped updates."""
        from fedfm.privacy.clipped_sum import CLIP, Bound, ClippedSum  # torch, which settings alone do not need
        from fedfm.privacy.noise import CorrelatedNoise

        z = promise.round_noise
        adaptation, sum_z = self._adaptation(promise.expected, z)
        start = self.initial_clip if self.clip == "adaptive" else self.clip
        clip = state[CLIP].item() if CLIP in state else start
        bound = Bound(clip, z, sum_z, adaptation)
        return ClippedSum(
            groups,
            bound,
            expected=promise.expected,
            round=round,
            charged=charged,
            noise=lambda: CorrelatedNoise(coefficients(promise.bands), state),
        )

    def _adaptation(self, cohort: float, z: float) -> tuple[Adaptation | None, float]:
        """How C follows the norms, and z_Δ.

        Raises:
            RecipeError: the noise of the count alone spends more than a round may.
        """
        if self.clip != "adaptive":
            return None, z
        from fedfm.privacy.clipped_sum import Adaptation

        count_noise = self.clip_count_noise or cohort / 20
        if z >= 2 * count_noise:
            raise RecipeError(
                f"the count of clients below the bound gets noise of {count_noise:g} (privacy.clip_count_noise), which "
                f"alone spends more than a round with noise multiplier {z:.3g} may: raise federation.per_round or "
                "clip_count_noise, or set a number",
                where="privacy.clip",
            )
        return Adaptation(count_noise, self.clip_quantile, self.clip_learning_rate), (
            z**-2 - (2 * count_noise) ** -2
        ) ** -0.5
