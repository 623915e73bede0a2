"""Personal parts: what `tune.share` matches travels; everything else of the tunable is each client's own.

Arivazhagan et al., Federated Learning with Personalization Layers, arXiv:1912.00818 (FedPer: a personal head); Guo et
al., Selective Aggregation for Low-Rank Adaptation in Federated Learning, arXiv:2410.01463 (FedSA-LoRA: `*lora_A*`). A
personal tensor is trained in every round that its client takes part in, starts from the client's last value, and is
never sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Self

from fedfm.errors import RecipeError
from fedfm.spec import Spec
from fedfm.views.base import Slices, View

HEAD = "head"
"""The word for the parameters of the task's head."""

NOT = "not "
"""First word of a pattern that excludes tensors from travelling."""

HEADS = frozenset(
    {
        "classifier",
        "classification_head",
        "cls",
        "cls_classifier",
        "distillation_classifier",
        "generator_predictions",
        "head",
        "lm_head",
        "lm_predictions",
        "pre_classifier",
        "predictions",
        "score",
        "text_projection",
        "visual_projection",
        "vocab_layer_norm",
        "vocab_transform",
    }
)
"""Modules beside the base model of a transformers model that make up its head."""


@dataclass(frozen=True)
class Share(View):
    """What is shared.

    Attributes:
        patterns: of tensor names, as the recipe has them.
    """

    patterns: tuple[str, ...]

    @classmethod
    def of(cls, recipe: Any) -> Self | None:
        """The recipe's `tune.share`."""
        share = getattr(recipe.tune, "share", None)
        return None if share is None else cls((share,) if isinstance(share, str) else tuple(share))

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """Shared tensors, whole."""
        shared = _shared(self.patterns, tuple(spec))
        return {name: () for name in spec if name in shared}

    def personal(self, spec: Spec) -> frozenset[str]:
        """All others."""
        return frozenset(spec) - _shared(self.patterns, tuple(spec))


@lru_cache(maxsize=16)
def _shared(patterns: tuple[str, ...], names: tuple[str, ...]) -> frozenset[str]:
    """Names that match; if all patterns exclude, every name that no pattern excludes.

    Raises:
        RecipeError: a pattern matches no tensor, or nothing is shared.
    """
    found = {pattern: _matching(pattern.removeprefix(NOT), names) for pattern in patterns}
    for pattern, matching in found.items():
        if not matching:
            raise RecipeError(
                f"`{pattern}` matches no tensor that `tune.kind` trains; the first of {len(names)} is `{min(names)}`",
                where="tune.share",
            )
    included = [matching for pattern, matching in found.items() if not pattern.startswith(NOT)]
    shared = set().union(*included) if included else set(names)
    shared -= set().union(*(matching for pattern, matching in found.items() if pattern.startswith(NOT)))
    if not shared:
        raise RecipeError("no tensor of the tunable is shared, so nothing would travel", where="tune.share")
    return frozenset(shared)


def _matching(pattern: str, names: Iterable[str]) -> set[str]:
    if pattern == HEAD:
        return {name for name in names if in_head(name)}
    return {name for name in names if fnmatchcase(name, pattern)}


def in_head(name: str) -> bool:
    """Whether a parameter belongs to the task's head: to a module beside the base model, or to a pooler before it."""
    parts = name.removeprefix("base_model.").removeprefix("model.").split(".")
    return parts[0] in HEADS or "pooler" in parts[:-1]
