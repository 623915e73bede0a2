"""Privacy: what a run promises about its clients' data. Adding a promise: write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.privacy.attendance import Attendance
from fedfm.privacy.base import NoPrivacy, Privacy, Release
from fedfm.privacy.central import Central
from fedfm.privacy.example_promise import ExamplePromise
from fedfm.privacy.ledger import Charge, Ledger
from fedfm.privacy.local import LocalPrivacy
from fedfm.privacy.private_steps import PrivateSteps
from fedfm.privacy.promise import Promise
from fedfm.privacy.statement import Statement, statement
from fedfm.registry import Choice

PRIVACIES: dict[str, type[Privacy]] = {
    "none": NoPrivacy,
    "central": Central,
    "local": LocalPrivacy,
}

AnyPrivacy = Annotated[Privacy, Choice(PRIVACIES, "kind", "fedfm.privacies")]

PRIVACY = "privacy"
"""Group of the server's state: what a release keeps for the next round."""

__all__ = [
    "PRIVACIES",
    "PRIVACY",
    "AnyPrivacy",
    "Attendance",
    "Central",
    "Charge",
    "ExamplePromise",
    "Ledger",
    "LocalPrivacy",
    "NoPrivacy",
    "Privacy",
    "PrivateSteps",
    "Promise",
    "Release",
    "Statement",
    "statement",
]
