"""The sections of a report, one a file: what the template says, worked out from a run's files."""

from fedfm.report.sections.classes import Classes, classes
from fedfm.report.sections.faults import Faults, faults
from fedfm.report.sections.federation import Federation, federation
from fedfm.report.sections.learning import Learning, learning
from fedfm.report.sections.outcome import Outcome, outcome
from fedfm.report.sections.proxy import Proxy, proxy
from fedfm.report.sections.spread import Spread, spread
from fedfm.report.sections.time import Time, time
from fedfm.report.sections.wire import Wire, wire

__all__ = [
    "Classes",
    "Faults",
    "Federation",
    "Learning",
    "Outcome",
    "Proxy",
    "Spread",
    "Time",
    "Wire",
    "classes",
    "faults",
    "federation",
    "learning",
    "outcome",
    "proxy",
    "spread",
    "time",
    "wire",
]
