"""Linear probing: trains only the task's head, on a frozen backbone."""

from __future__ import annotations

from typing import Literal

from fedfm.capabilities import HEAD_ALONE, LINEAR_TUNABLE
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import TuneSettings, attach_parameters


class Head(TuneSettings):
    """The task's head only."""

    gives = frozenset({HEAD_ALONE, LINEAR_TUNABLE})
    kind: Literal["head"] = "head"
    """The task's head only."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """The classification head, or the part of a language model's head that is not tied to its embeddings.

        Raises:
            RecipeError: at ``tune.kind``: the whole head is tied to the embeddings.
        """
        model = backbone.model
        modules = backbone.head or backbone.family.language_heads
        names = [
            name
            for name, parameter in model.named_parameters()
            if any(name.startswith(f"{module}.") for module in modules)
        ]
        if not names:
            raise RecipeError(
                f"the head of {backbone.name} is tied to its embeddings and cannot be tuned alone; use lora or full",
                where="tune.kind",
            )
        return attach_parameters(model, names)
