"""The sections of a report, one a file: what the template says, worked out from a run's files."""

from fedfm.records.sections.classes import Classes, classes
from fedfm.records.sections.faults import Faults, faults
from fedfm.records.sections.federation import Federation, federation
from fedfm.records.sections.learning import Learning, learning
from fedfm.records.sections.outcome import Outcome, outcome
from fedfm.records.sections.proxy import Proxy, proxy
from fedfm.records.sections.spread import Spread, spread
from fedfm.records.sections.time import Time, time
from fedfm.records.sections.wire import Wire, wire

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
