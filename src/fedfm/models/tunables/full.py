"""Full fine-tuning: trains all parameters of the model, or those of its tunable blocks and the head."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedfm.capabilities import LINEAR_TUNABLE, WEIGHT_MATRICES
from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import TuneSettings, attach_parameters, tunable_blocks


class Full(TuneSettings):
    """Every parameter."""

    gives: ClassVar[frozenset[str]] = frozenset({LINEAR_TUNABLE, WEIGHT_MATRICES})
    stackable: ClassVar[bool] = False

    kind: Literal["full"] = "full"
    """Every parameter."""

    @property
    def needs_all_neurons(self) -> bool:
        """True: the FFNs' matrices are among the parameters."""
        return True

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """All parameters, tied ones once; if only some blocks may be tuned, their parameters and the head's."""
        tuned = {id(parameter) for block in tunable_blocks(backbone) for parameter in block.module.parameters()}
        names = [
            name
            for name, parameter in backbone.model.named_parameters()
            if backbone.tunable_blocks is None
            or id(parameter) in tuned
            or any(name.startswith(f"{module}.") for module in backbone.head)
        ]
        return attach_parameters(backbone.model, names)
