"""Attackers among simulated clients, to measure what a rule withstands. One attack, one file."""

from __future__ import annotations

from typing import Annotated

from fedfm.clients.attackers.alie import Alie
from fedfm.clients.attackers.backdoor import Backdoor
from fedfm.clients.attackers.base import Attack, attackers_of
from fedfm.clients.attackers.free_rider import FreeRider
from fedfm.clients.attackers.honest import HonestUpdates
from fedfm.clients.attackers.ipm import Ipm
from fedfm.clients.attackers.label_flip import LabelFlip
from fedfm.clients.attackers.min_max import MinMax
from fedfm.clients.attackers.noise import GaussianNoise
from fedfm.clients.attackers.sign_flip import SignFlip
from fedfm.registry import Choice

ATTACKS: dict[str, type[Attack]] = {
    "label-flip": LabelFlip,
    "backdoor": Backdoor,
    "sign-flip": SignFlip,
    "noise": GaussianNoise,
    "free-rider": FreeRider,
    "alie": Alie,
    "ipm": Ipm,
    "min-max": MinMax,
}

AnyAttack = Annotated[Attack, Choice(ATTACKS, "kind", "fedfm.attacks")]

__all__ = [
    "ATTACKS",
    "Alie",
    "AnyAttack",
    "Attack",
    "Backdoor",
    "FreeRider",
    "GaussianNoise",
    "HonestUpdates",
    "Ipm",
    "LabelFlip",
    "MinMax",
    "SignFlip",
    "attackers_of",
]
