"""Tripwire ``loaded``: the weights of the checkpoint are those of the model."""

from __future__ import annotations

from fedfm.models.frozen import named
from fedfm.server.tripwires.base import Finding, Tripwire


class LoadedWeights(Tripwire):
    """Reports what came from the checkpoint, what is new, and what of the checkpoint the model does not use.

    A checkpoint that lacks weights outside the head, or whose values do not arrive in the model, is refused when it is
    loaded (`fedfm.models.backbones`); a run with one never begins.
    """

    name = "loaded"

    def begun(self) -> Finding:
        """The counts."""
        backbone = self.experiment.backbone
        if backbone.drawn:
            return Finding(
                f"no tensor of the model came from the checkpoint of {backbone.name}: all were drawn at random "
                "(model.init: random)"
            )
        text = f"{backbone.loaded} tensors of the model came from the checkpoint of {backbone.name}"
        new, ignored = list(backbone.new_head), list(backbone.ignored)
        text += f"; newly drawn, all in the head: {named(new)}" if new else "; none is newly drawn"
        text += f"; of the checkpoint, the model does not use {named(ignored)}" if ignored else ""
        return Finding(text)
