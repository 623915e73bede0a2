"""The one statement about privacy, which terminal, report, card, ``fedfm check`` and the documentation quote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Statement:
    """What can be said about the privacy of a run.

    Attributes:
        epsilon: such as ``ε = 8``.
        detail: what belongs to it, such as δ and the unit.
        text: the same in one sentence.
        limits: what the promise does not cover, or what follows from its absence; one sentence or two.
    """

    epsilon: str
    detail: str
    text: str
    limits: str

    @property
    def short(self) -> str:
        """On one line."""
        return f"{self.epsilon} ({self.detail})"


NONE = Statement(
    "ε = ∞",
    "no differential privacy",
    "No differential privacy (ε = ∞): the parameters may reveal information about the examples on which they were "
    "tuned.",
    "Examples stay with their clients, but updates contain no noise: a party that sees an update can learn something "
    "about the examples behind it.",
)

LIMITS = {
    "client": (
        "It holds for everything that is computed from the tuned parameters of all rounds, against all who do not see "
        "the server. It does not cover training losses, clients' own metrics, numbers of examples, failures, times and "
        "names of clients in the run's folder, nor the choice of settings by repeated runs on the same data. The "
        "server sees every client's update."
    ),
    "example": (
        "It holds for every update that a client sends, against all others, the server included; each client adds the "
        "noise itself. It protects one example: of a party with several examples, each costs as much. It does not "
        "cover numbers of examples, metrics that clients measure, baselines, failures and times, nor the choice of "
        "settings by repeated runs on the same data."
    ),
}
"""What a promise about each unit covers."""


def statement(figures: Mapping[str, Any] | None) -> Statement:
    """The statement about a run.

    Args:
        figures: ``privacy`` of a plan or of ``summary.json``: at least ``epsilon`` (None: not known yet), ``delta``
            and ``unit``; None: nothing is promised.
    """
    if figures is None:
        return NONE
    delta, unit = f"{figures['delta']:.1g}", figures["unit"]
    if figures["epsilon"] is None:
        words = "ε depends on the clients' numbers of examples"
        return Statement(words, f"δ = {delta}, per {unit}", f"Differential privacy, per {unit}; {words}.", LIMITS[unit])
    epsilon = f"{figures['epsilon']:.3g}"
    text = f"(ε, δ) = ({epsilon}, {delta}) differential privacy, per {unit}."
    if figures.get("releases"):
        text += f" {_noise(figures)}"
    if figures.get("steps"):
        text += f" {_noise_of_steps(figures)}"
    return Statement(f"ε = {epsilon}", f"δ = {delta}, per {unit}", text, LIMITS[unit])


def _noise_of_steps(figures: Mapping[str, Any]) -> str:
    """How clients keep the promise."""
    return (
        f"At the client that spent most, Gaussian noise of {figures['noise_multiplier']:.3g} times the clipping bound "
        "is in the gradient of every local step; each example takes part in a step with probability "
        f"{figures['rate']:.3g}; {figures['steps']} steps in {figures['rounds']} rounds, accountant "
        f"{figures['accountant']}."
    )


def _noise(figures: Mapping[str, Any]) -> str:
    """How the promise is kept."""
    rate, bands = figures["rate"], figures.get("bands", 1)
    if figures.get("joint"):
        taking = f"clients take turns over {figures['planned']} rounds, which are accounted as one release"
    elif rate >= 1:
        taking = "all clients are asked in every round"
    else:
        taking = f"each client takes part with probability {rate:.3g}"
    correlated = f", correlated over {bands} rounds" if bands > 1 else ""
    noise = figures["noise_multiplier"] * figures.get("sensitivity", 1.0)
    return (
        f"Gaussian noise of {noise:.3g} times the clipping bound is in the sum of every round{correlated}; "
        f"{taking}; {figures['releases']} releases, accountant {figures['accountant']}."
    )
