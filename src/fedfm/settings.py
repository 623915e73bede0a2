"""The base of every settings class: strict, frozen, and documented by the docstrings of its fields.

A method and its settings are one object throughout fedfm: a partition, a tunable, an algorithm is a frozen settings
class with the functions that use those settings. The recipe is their composition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Capabilities:
    """What a choice of the recipe means for the other choices; the words are those of `fedfm.capabilities`.

    Attributes:
        needs: capability → why the choice needs it; another choice of the recipe must give it.
        gives: capabilities that the choice gives, unless another choice takes them.
        takes: capability → why the choice takes it.
    """

    needs: Mapping[str, str]
    gives: frozenset[str]
    takes: Mapping[str, str]


class Settings(BaseModel):
    """A frozen group of recipe keys. Unknown keys are errors; no silent conversion between types.

    The string below each field is its help text: ``fedfm show`` prints it as a comment.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    needs: ClassVar[Mapping[str, str]] = {}
    """Capability → why this choice needs it, as the end of a sentence; some other choice of the recipe must give it."""
    gives: ClassVar[frozenset[str]] = frozenset()
    """Capabilities that this choice brings, for as long as no other choice of the recipe takes them away."""
    takes: ClassVar[Mapping[str, str]] = {}
    """Capability → why this choice takes it away, as the end of a sentence."""

    def capabilities(self) -> Capabilities:
        """What this choice needs, gives and takes; a class overrides it where its values decide."""
        return Capabilities(self.needs, self.gives, self.takes)
