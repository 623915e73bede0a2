"""(IA)³: trained vectors, initialised to ones, rescale keys, values and the FFN's hidden activations.

Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, arXiv:2205.05638,
§3.3. If query, key and value are one matrix (GPT-2), the query is rescaled too, as in peft.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from peft import IA3Config

from fedfm.capabilities import LINEAR_TUNABLE
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import Family, Stack, pattern, targets
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.base import WithHead, attach_peft, refuse_undescribed
from fedfm.models.tunables.targets import matching, transposed, within


class IA3(WithHead):
    """Trained factors on keys, values and FFN activations."""

    gives = frozenset({LINEAR_TUNABLE})
    in_blocks: ClassVar[bool] = True
    usual_lr = (3e-3, 1e-2)  # its updates are tiny

    kind: Literal["ia3"] = "ia3"
    """Trained factors on keys, values and FFN activations."""
    target_modules: str | list[str] | None = None
    """Matrices to rescale, as a regular expression or a list of name endings; null: keys, values and FFN outputs."""
    feedforward_modules: str | list[str] | None = None
    """Target modules whose input is rescaled instead of the output; null: the FFN outputs."""

    @property
    def needs_all_neurons(self) -> bool:
        """Whether it rescales FFN activations, which it does where no other modules are named."""
        return self.target_modules is None

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        """(IA)³.

        Raises:
            RecipeError: the FFNs of the model are not described, or no module matches the settings.
        """
        refuse_undescribed(backbone)
        if any(stack.ffn is None for stack in backbone.family.stacks):
            raise RecipeError(
                f"the FFNs of {backbone.family.name} are experts, which are not linear layers; use lora",
                where="tune.kind",
            )
        chosen = self.target_modules if self.target_modules is not None else _targets(backbone.family)
        modules = matching(chosen, backbone)
        if (forward := self.feedforward_modules) is None:
            forward = pattern(backbone.family, lambda stack: [stack.dense_ffn.output])
        else:
            found = matching(forward, backbone, where="tune.feedforward_modules")
            if (
                backbone.tunable_blocks is not None
            ):  # a pattern: peft shortens the list of targets, and a list would then not match it
                forward = "|".join(map(re.escape, found))
        config = IA3Config(
            target_modules=within(chosen, modules, backbone),
            feedforward_modules=forward,
            modules_to_save=self.head_modules(backbone) or None,
            fan_in_fan_out=transposed(modules),
            task_type=self.peft_task_type(task_type),
        )
        return attach_peft(backbone, config, seed=seed)


def _targets(family: Family) -> str | list[str]:
    return targets(family, lambda stack: [*_keys_and_values(stack), stack.dense_ffn.output])


def _keys_and_values(stack: Stack) -> list[str]:
    return [
        path
        for attention in stack.attention
        for path in ([attention.key] if attention.fused else [attention.key, attention.value])
    ]
