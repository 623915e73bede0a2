"""The interface of tripwires: cheap checks that a run does what its recipe says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fedfm.params import Params
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.state import RunState

CHECK = "check"
"""The kind of a tripwire's event."""


@dataclass(frozen=True)
class Finding:
    """What a tripwire found.

    Attributes:
        text: one sentence; where something is wrong, with what to do.
        sound: whether all is well; None where it could not be compared.
        ends: whether the run must not go on.
    """

    text: str
    sound: bool | None = True
    ends: bool = False


class Tripwire:
    """One check. The methods find nothing unless they are overridden; each is called at its point of a run."""

    name: ClassVar[str]
    """Its key in the registry, and in events."""

    def __init__(self, experiment: Experiment) -> None:
        """Before the first round of this process: remembers what later values are compared with."""
        self.experiment = experiment

    def begun(self) -> Finding | None:
        """Before round 1 of a new run."""
        return None

    def played(self, state: RunState, delivered: Callable[[], Params]) -> Finding | None:
        """After a round, before it is saved.

        Args:
            state: after the round.
            delivered: what the run would deliver; computed when it is called.
        """
        return None

    def finished(self) -> Finding | None:
        """After the last round, before anything is written."""
        return None

    def written(self, target: Path, summary: dict[str, Any]) -> Finding | None:
        """After the artifacts are written.

        Args:
            target: ``adapter/`` or ``model/``.
            summary: the content of summary.json, to which the wire may add its figures.
        """
        return None
