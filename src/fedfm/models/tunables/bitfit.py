"""BitFit: trains all biases of the blocks, including those of norms.

Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models,
arXiv:2106.10199, §3.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from fedfm.capabilities import LINEAR_TUNABLE
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import WithHead, attach_parameters, refuse_undescribed, tunable_blocks


class BitFit(WithHead):
    """The biases of all blocks."""

    gives = frozenset({LINEAR_TUNABLE})
    in_blocks: ClassVar[bool] = True
    usual_lr = (1e-3, 1e-2)

    kind: Literal["bitfit"] = "bitfit"
    """The biases of all blocks."""

    @property
    def needs_all_neurons(self) -> bool:
        """True: each neuron has a bias."""
        return True

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """BitFit.

        Raises:
            RecipeError: at ``tune.kind``: the model has no biases (Llama).
        """
        refuse_undescribed(backbone)
        head = self.head_modules(backbone)
        biases = {
            id(parameter)
            for block in tunable_blocks(backbone)
            for name, parameter in block.module.named_parameters()
            if name.endswith("bias")
        }
        if not biases:
            raise RecipeError(f"the blocks of {backbone.name} have no biases; choose another kind", where="tune.kind")
        names = [
            name
            for name, parameter in backbone.model.named_parameters()
            if id(parameter) in biases or any(name.startswith(f"{module}.") for module in head)
        ]
        return attach_parameters(backbone.model, names)
