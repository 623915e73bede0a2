"""Tripwires: cheap checks that a run does what its recipe says, each one file.

Each leaves one line in ``events.jsonl``, also when all is well, and the report lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedfm.errors import TripwireError
from fedfm.params import Params
from fedfm.printable import line
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.state import RunState
from fedfm.server.tripwires.base import CHECK, Finding, Tripwire
from fedfm.server.tripwires.frozen import Frozen
from fedfm.server.tripwires.loaded import LoadedWeights
from fedfm.server.tripwires.moved import Moved
from fedfm.server.tripwires.reloaded import Reload
from fedfm.trackers.listeners import Listener

TRIPWIRES: dict[str, type[Tripwire]] = {wire.name: wire for wire in (LoadedWeights, Moved, Frozen, Reload)}
"""Name → tripwire, in the order in which a run comes to them."""

Found = Iterator[tuple[str, Finding | None]]


class Tripwires:
    """All tripwires of one process's part of a run."""

    def __init__(self, experiment: Experiment, folder: RunFolder, listeners: Sequence[Listener]) -> None:
        """Arms them.

        Args:
            experiment: the run.
            folder: gets the events.
            listeners: get warnings.

        Raises:
            TripwireError: one has ended this run before.
        """
        for event in jsonl.records(folder.events, shapes.EVENT):
            if event.get("ends"):
                raise TripwireError(f"this run cannot be continued: {line(event['reason'])}")
        self._wires = {name: wire(experiment) for name, wire in TRIPWIRES.items()}
        self._folder, self._listeners = folder, listeners

    def begun(self) -> None:
        """Before round 1 of a new run; raises as `played`."""
        self._record(0, ((name, wire.begun()) for name, wire in self._wires.items()))

    def played(self, state: RunState, delivered: Callable[[], Params]) -> None:
        """After a round, before it is saved.

        Raises:
            TripwireError: a tripwire ends the run.
        """
        self._record(state.round, ((name, wire.played(state, delivered)) for name, wire in self._wires.items()))

    def finished(self, number: int) -> None:
        """After the last round, the ``number``-th; raises as `played`."""
        self._record(number, ((name, wire.finished()) for name, wire in self._wires.items()))

    def written(self, number: int, target: Path, summary: dict[str, Any]) -> None:
        """After the artifacts are written; raises as `played`."""
        self._record(number, ((name, wire.written(target, summary)) for name, wire in self._wires.items()))

    def _record(self, number: int, found: Found) -> None:
        """Writes findings to the events at once, so that a run that ends here has them; warns of what is wrong."""
        for name, finding in found:
            if finding is None:
                continue
            event = {"round": number, "kind": CHECK, "client": None, "reason": finding.text}
            more = {"check": name, "sound": finding.sound, **({"ends": True} if finding.ends else {})}
            self._folder.append(self._folder.events, event | more)
            if finding.ends:
                raise TripwireError(finding.text)
            for listener in self._listeners if finding.sound is False else ():
                listener.on_warning(finding.text)
