"""Resolves the recipe's `target_modules` to module names of a model."""

from __future__ import annotations

import re
from collections import Counter

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import all_targets, attention_targets, ffn_targets
from fedfm.models.tunables.base import tunable_blocks
from fedfm.models.tunables.by_name import all_by_name, attention_by_name, others_by_name

TARGETS = {"attention": attention_targets, "ffn": ffn_targets, "all": all_targets}
"""Name of a part of every block → its modules, from the family's description."""

BY_NAME = {"attention": attention_by_name, "ffn": others_by_name, "all": all_by_name}
"""Name of a part of every block → its modules, for models without a description."""


def resolve(chosen: str | list[str], backbone: Backbone) -> str | list[str]:
    """Resolves the name of a part to peft's ``target_modules``; regular expressions and lists are returned unchanged.

    Raises:
        RecipeError: at ``tune.target_modules``: the model has no such part.
    """
    if not isinstance(chosen, str) or chosen not in TARGETS:
        return chosen
    family = backbone.family
    if chosen != "attention" and any(stack.ffn is None for stack in family.stacks):
        raise RecipeError(
            f"the FFNs of {family.name} are experts, which are not linear layers; use `attention`",
            where="tune.target_modules",
        )
    found = TARGETS[chosen](family) if family.is_described else BY_NAME[chosen](backbone)
    if not found:
        raise RecipeError(
            f"no linear layer of {backbone.name} matches `{chosen}`; {_available(backbone.model)}",
            where="tune.target_modules",
        )
    return found


def matching(
    chosen: str | list[str], backbone: Backbone, *, where: str = "tune.target_modules"
) -> dict[str, nn.Linear | Conv1D]:
    """The linear modules that peft would adapt: their full names match the pattern, or end with a listed name.

    Raises:
        RecipeError: at ``where``: no module matches, or a matching module is not linear or is tied to the embeddings.
    """
    modules = {name: module for name, module in _tunable_modules(backbone) if not _in_head(name, backbone)}
    if isinstance(chosen, str):
        try:
            pattern = re.compile(chosen)
        except (re.error, OverflowError, RecursionError) as error:
            raise RecipeError(f"`{chosen:.200}` is not a regular expression: {error}", where=where) from error
        found = [name for name in modules if pattern.fullmatch(name)]
        unmatched = [] if found else [chosen]
    else:
        found = [name for name in modules if any(name == end or name.endswith(f".{end}") for end in chosen)]
        unmatched = [end for end in chosen if not any(name == end or name.endswith(f".{end}") for name in found)]
    if unmatched or not found:
        raise RecipeError(
            f"no module of {backbone.name} matches `{'`, `'.join(unmatched)}`{_where(backbone)}; "
            f"{_available(backbone.model)}",
            where=where,
        )
    linear = {name: module for name in found if isinstance(module := modules[name], nn.Linear | Conv1D)}
    if others := [name for name in found if name not in linear]:
        raise RecipeError(f"not linear: {', '.join(others[:3])}; {_available(backbone.model)}", where=where)
    tied = _tied_parameters(backbone.model)
    if shared := [name for name, module in linear.items() if id(module.weight) in tied]:
        raise RecipeError(f"tied to the embeddings, which would also change: {', '.join(shared)}", where=where)
    return linear


def within(chosen: str | list[str], found: dict[str, nn.Linear | Conv1D], backbone: Backbone) -> str | list[str]:
    """The targets to pass to peft: ``chosen``, or the names of all found modules if only some blocks may be tuned."""
    return chosen if backbone.tunable_blocks is None else list(found)


def transposed(modules: dict[str, nn.Linear | Conv1D]) -> bool:
    """Whether the weights are stored ``[in, out]``, peft's ``fan_in_fan_out``."""
    return any(isinstance(module, Conv1D) for module in modules.values())


def _tunable_modules(backbone: Backbone) -> list[tuple[str, nn.Module]]:
    """Modules by name; if only some blocks may be tuned, the modules inside them."""
    modules = list(backbone.model.named_modules())
    if backbone.tunable_blocks is None:
        return modules
    inside = {id(module) for block in tunable_blocks(backbone) for module in block.module.modules()}
    return [(name, module) for name, module in modules if id(module) in inside]


def _where(backbone: Backbone) -> str:
    return f" in the tunable blocks {', '.join(backbone.tunable_blocks)}" if backbone.tunable_blocks else ""


def _in_head(name: str, backbone: Backbone) -> bool:
    return any(name == head or name.startswith(f"{head}.") for head in backbone.head)


def _tied_parameters(model: PreTrainedModel) -> set[int]:
    """The ids of parameters with several names in a model, such as embeddings that are also the output matrix."""
    names = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return {parameter for parameter, count in names.items() if count > 1}


def _available(model: PreTrainedModel) -> str:
    """The available targets, with layer numbers written as N."""
    names = {
        re.sub(r"\.\d+\.", ".N.", name): None
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return f"available: attention, ffn, all (of every block), or: {', '.join(names)}"
