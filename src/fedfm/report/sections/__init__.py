"""The sections of a report, one a file: what the template says, computed from the files of a run."""

from fedfm.report.sections.audit import audit
from fedfm.report.sections.checks import checks
from fedfm.report.sections.classes import classes
from fedfm.report.sections.comparison import comparison
from fedfm.report.sections.continual import continual
from fedfm.report.sections.contribution import contribution
from fedfm.report.sections.costs import costs
from fedfm.report.sections.faults import faults
from fedfm.report.sections.federation import federation
from fedfm.report.sections.groups import groups
from fedfm.report.sections.learning import learning
from fedfm.report.sections.outcome import outcome
from fedfm.report.sections.own_models import own_models
from fedfm.report.sections.proxy import proxy
from fedfm.report.sections.samples import samples
from fedfm.report.sections.selection import selection
from fedfm.report.sections.spread import spread
from fedfm.report.sections.synthetic import synthetic
from fedfm.report.sections.time import time
from fedfm.report.sections.wire import wire

__all__ = [
    "audit",
    "checks",
    "classes",
    "comparison",
    "continual",
    "contribution",
    "costs",
    "faults",
    "federation",
    "groups",
    "learning",
    "outcome",
    "own_models",
    "proxy",
    "samples",
    "selection",
    "spread",
    "synthetic",
    "time",
    "wire",
]
