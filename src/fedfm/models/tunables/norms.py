"""Norm tuning: trains weights and biases of the blocks' norms.

Zhao et al., Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning, arXiv:2312.11420. For models
without biases (Llama) what BitFit is for models with them.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from peft import LNTuningConfig

from fedfm.capabilities import LINEAR_TUNABLE
from fedfm.models.backbones import Backbone
from fedfm.models.stacked.layers import vector_forms
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import WithHead, attach_peft, refuse_undescribed, tunable_blocks


class Norms(WithHead):
    """The norms of all blocks."""

    gives = frozenset({LINEAR_TUNABLE})
    in_blocks: ClassVar[bool] = True

    kind: Literal["norms"] = "norms"
    """Weights and biases of the norms of all blocks."""

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """Norm tuning.

        Raises:
            RecipeError: at ``tune.kind``: the model's family is not described.
        """
        refuse_undescribed(backbone)
        described = [
            block.module.get_submodule(path) for block in tunable_blocks(backbone) for path in block.stack.norms
        ]
        chosen = [module for module in described if list(module.parameters())]  # ModernBERT's first one is empty
        modules = {id(module) for module in chosen}
        config = LNTuningConfig(
            target_modules=[name for name, module in backbone.model.named_modules() if id(module) in modules],
            modules_to_save=self.head_modules(backbone) or None,
            task_type=self.peft_task_type(task_type),
        )
        return attach_peft(backbone, config, seed=seed, stacked_forms=vector_forms(chosen))
