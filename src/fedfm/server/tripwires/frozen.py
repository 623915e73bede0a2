"""Tripwire ``frozen``: the frozen weights of the server's model are the same before and after the rounds.

Clients train in other processes or on other machines as well; there, `fedfm.models.frozen.FrozenWatch` compares the
weights around the first pass of each process, and a client whose weights changed fails.
"""

from __future__ import annotations

from fedfm.models.frozen import changes, checksums, named
from fedfm.server.experiment.build import Experiment
from fedfm.server.tripwires.base import Finding, Tripwire


class Frozen(Tripwire):
    """Compares checksums of everything in the backbone that is not trained."""

    name = "frozen"

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self._before = checksums(experiment.tunable)

    def finished(self) -> Finding:
        """The tensors that changed."""
        if changed := changes(self._before, self.experiment.tunable):
            return Finding(
                f"{len(changed)} tensors of the backbone that `tune` does not train have changed during the run: "
                f"{named(changed)}. The tuned parameters alone do not give the measured model, so nothing is written; "
                "report this as a fault of the method, and start a new run without it",
                sound=False,
                ends=True,
            )
        if not self._before:
            return Finding("the tunable trains every tensor of the model; nothing is frozen")
        return Finding(f"the {len(self._before)} frozen tensors of the backbone are as they were loaded")
