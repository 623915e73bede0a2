"""Tripwire ``reloaded``: what was written, loaded with plain peft or transformers, is the measured model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedfm.server.runs.reload import TOLERANCE, reload
from fedfm.server.tripwires.base import Finding, Tripwire


class Reload(Tripwire):
    """Compares logits on one synthetic batch; a difference is a warning, since the run itself is valid."""

    name = "reloaded"

    def written(self, target: Path, summary: dict[str, Any]) -> Finding:
        """The comparison, which summary.json has as ``reloaded``."""
        experiment = self.experiment
        again = reload(target, experiment.tunable, experiment.backbone, experiment.recipe)
        summary["reloaded"] = again.record()
        if again.agrees is None:
            return Finding(f"{target.name}/ was not loaded again: {again.reason}", sound=None)
        if again.agrees:
            return Finding(
                f"{target.name}/ loaded with plain {again.library} gives the measured model's logits, to within "
                f"{TOLERANCE:g} of the largest"
            )
        fault = again.reason or f"on the same input its logits differ by {again.difference:.1g} of the largest"
        reason = f"{target.name}/ loaded with plain {again.library} is not the model that was measured: {fault}"
        return Finding(reason, sound=False)
