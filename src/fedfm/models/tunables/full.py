"""Every parameter of the model."""

from __future__ import annotations

from typing import Literal

from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import TuneSettings


class Full(TuneSettings):
    """Every parameter."""

    kind: Literal["full"] = "full"
    """Every parameter."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """All parameters, tied ones once."""
        return Tunable.of_model(backbone.model, [name for name, _ in backbone.model.named_parameters()])
