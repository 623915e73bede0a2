"""ε of Gaussian noise on sums over Poisson samples, by dp-accounting, and the noise that a target ε needs.

Neighbours differ by one unit (a client, an example) that is added or removed. `pld` composes privacy loss distributions
(Koskela et al., arXiv:1906.03049; Doroshenko et al., arXiv:2207.04380), `rdp` Rényi divergences (Mironov et al.,
arXiv:1908.10530), which gives a larger ε. Both are upper bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from fedfm.errors import RecipeError
from fedfm.extras import how_to_install

ACCOUNTANTS = ("pld", "rdp")

FINE, COARSE = 1e-4, 1e-3
"""Width of a bin of privacy loss, for figures and while noise is searched for; a coarser bin gives a larger ε."""


@lru_cache(maxsize=512)
def epsilon(
    accountant: str,
    noise_multiplier: float,
    rate: float,
    repeats: tuple[tuple[int, int], ...],
    delta: float,
    bin_width: float = FINE,
) -> float:
    """ε at δ of the rounds of a run.

    Args:
        accountant: one of `ACCOUNTANTS`.
        noise_multiplier: z of one release.
        rate: q, the probability with which a client is in a round's sample.
        repeats: pairs of k and the number of rounds that were released k times, each time with fresh noise on the same
            sample.
        delta: δ.
        bin_width: of privacy loss, for ``pld``.

    Raises:
        RecipeError: dp-accounting is not installed.
    """
    releases = tuple((noise_multiplier / math.sqrt(times), rate, rounds) for times, rounds in repeats)
    return composed(accountant, releases, delta, bin_width)


@lru_cache(maxsize=512)
def composed(
    accountant: str, releases: tuple[tuple[float, float, int], ...], delta: float, bin_width: float = FINE
) -> float:
    """ε at δ of releases with different noise.

    Args:
        accountant: one of `ACCOUNTANTS`.
        releases: z, q and the number of releases with these, each of a Poisson sample of its own.
        delta: δ.
        bin_width: of privacy loss, for ``pld``.

    Raises:
        RecipeError: dp-accounting is not installed.
    """
    dp = _library()
    fresh = _fresh(accountant, bin_width)
    for noise_multiplier, rate, count in releases:
        fresh.compose(_event(dp, noise_multiplier, rate), count)
    return float(fresh.get_epsilon(delta))


@lru_cache(maxsize=64)
def calibrated(accountant: str, target: float, rate: float, rounds: int, delta: float) -> float:
    """The least noise multiplier z, to about 1e-3 of itself, with which ``rounds`` releases cost at most ε = target.

    Raises:
        RecipeError: dp-accounting is not installed.
    """
    dp = _library()

    def cost(z: float) -> float:
        return epsilon(accountant, z, rate, ((1, rounds),), delta, COARSE)

    low = high = 1.0  # a bracket from above: ε of little noise takes long to compute
    while cost(high) > target:
        low, high = high, 2 * high
    while low == high or cost(low) <= target:
        low, high = low / 2, low
    found = dp.calibrate_dp_mechanism(
        lambda: _fresh(accountant, COARSE),
        lambda z: dp.SelfComposedDpEvent(_event(dp, z, rate), rounds),
        target,
        delta,
        bracket_interval=dp.ExplicitBracketInterval(low, high),
        tol=1e-4,
    )
    return float(found)


def effective(parts: Iterable[float]) -> float:
    """The noise multiplier of several Gaussian releases at once, (Σ z_i⁻²)^(−1/2); arXiv:1905.03871, Theorem 1."""
    return 1 / math.sqrt(sum(z**-2 for z in parts))


def _library() -> Any:
    try:
        import dp_accounting
    except ImportError as error:
        raise RecipeError(f"dp-accounting is not installed; {how_to_install('dp')}", where="privacy.kind") from error
    return dp_accounting


def _fresh(accountant: str, bin_width: float) -> Any:
    from dp_accounting import pld, rdp

    if accountant == "rdp":
        return rdp.RdpAccountant()
    return pld.PLDAccountant(value_discretization_interval=bin_width)


def _event(dp: Any, noise_multiplier: float, rate: float) -> Any:
    gaussian = dp.GaussianDpEvent(noise_multiplier)
    return gaussian if rate >= 1 else dp.PoissonSampledDpEvent(rate, gaussian)
