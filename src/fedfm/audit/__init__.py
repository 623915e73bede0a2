"""Audits: what a finished run gives away, measured. One attack, one file."""

from __future__ import annotations

from fedfm.audit.base import Audit, Audited, AuditedLosses, CanaryLosses, NotMeasuredError
from fedfm.audit.disclosure import BackboneShare
from fedfm.audit.exposure import Exposure
from fedfm.audit.gradients import Victim
from fedfm.audit.inversion import Inversion
from fedfm.audit.membership import Membership
from fedfm.audit.one_run import OneRun

AUDITS: dict[str, Audit] = {
    "membership": Membership(),
    "exposure": Exposure(),
    "one_run": OneRun(),
    "inversion": Inversion(),
    "disclosure": BackboneShare(),
}

__all__ = ["AUDITS", "Audit", "Audited", "AuditedLosses", "CanaryLosses", "NotMeasuredError", "Victim"]
