"""Selected layers: trains chosen blocks in full, and the head; usually the last ones.

Lee et al., Surgical Fine-Tuning Improves Adaptation to Distribution Shifts,
arXiv:2210.11466, which finds that the best blocks depend on what differs in the new data.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from fedfm.capabilities import LINEAR_TUNABLE
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import blocks
from fedfm.models.stacked.layers import vector_forms
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import WithHead, attach_parameters, refuse_undescribed, tunable_blocks


class WholeLayers(WithHead):
    """All parameters of chosen blocks."""

    gives = frozenset({LINEAR_TUNABLE})
    in_blocks: ClassVar[bool] = True
    needs_all_layers: ClassVar[bool] = True

    kind: Literal["layers"] = "layers"
    """All parameters of chosen blocks."""
    layers: list[int] = [-1]
    """Numbers of the blocks, from 0; negative ones count from the last block. Of two stacks (T5, CLIP) the blocks are
    numbered one stack after the other."""

    @property
    def needs_all_neurons(self) -> bool:
        """True: the FFNs' matrices are among the parameters."""
        return True

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """Chosen blocks.

        Raises:
            RecipeError: at ``tune.layers``: a block does not exist, or none is chosen; at ``tune.kind``: the model's
                family is not described.
        """
        refuse_undescribed(backbone)
        head = self.head_modules(backbone)
        every = blocks(backbone.model, backbone.family)
        absent = [number for number in self.layers if not -len(every) <= number < len(every)]
        if absent or not self.layers:
            wrong = f"there is no block {absent[0]}" if absent else "no block is chosen"
            raise RecipeError(f"{wrong}; {backbone.name} has blocks 0 to {len(every) - 1}", where="tune.layers")
        numbers = {number % len(every) for number in self.layers}
        allowed = {block.path for block in tunable_blocks(backbone)}
        chosen = {
            id(parameter)
            for number, block in enumerate(every)
            if number in numbers and block.path in allowed
            for parameter in block.module.parameters()
        }
        if not chosen:
            raise RecipeError("none of the blocks may be tuned with this proxy", where="tune.layers")
        names = [
            name
            for name, parameter in backbone.model.named_parameters()
            if id(parameter) in chosen or any(name.startswith(f"{module}.") for module in head)
        ]
        tunable = attach_parameters(backbone.model, names)
        parts = [
            block.module.get_submodule(path) for block in every for path in (*block.stack.norms, *block.stack.others)
        ]
        tunable.stacked_forms = vector_forms(
            part for part in parts if all(parameter.ndim == 1 for parameter in part.parameters())
        )
        return tunable
