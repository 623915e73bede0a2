"""Settings of the backbone."""

from __future__ import annotations

from typing import Literal

from fedfm.settings import Settings


class ModelSettings(Settings):
    """The recipe's ``model``."""

    path: str
    """Hub id (`owner/name`), local folder, or `builtin:NAME`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["float32"] = "float32"
    """Type of the backbone's weights."""
