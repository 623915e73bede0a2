"""The base of every settings class: strict, frozen, and documented by the docstrings of its fields.

A method and its settings are one object throughout fedfm: a partition, a tunable, an algorithm is a frozen settings
class with the functions that use those settings. The recipe is their composition.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen group of recipe keys. Unknown keys are errors; no silent conversion between types.

    The string below each field is its help text: ``fedfm show`` prints it as a comment.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
