"""Settings of the backbone."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from fedfm.settings import Settings


class ModelSettings(Settings):
    """The recipe's ``model``."""

    path: str
    """Hub id (`owner/name`), local folder, or `builtin:NAME`."""
    text: str | None = None
    """A second model, named as `path` is, that reads the texts of `task.kind: image-text`, while `path` reads the
    images; null: `path` reads both, as CLIP does."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["float32"] = "float32"
    """Type of the backbone's weights."""
    init: Literal["pretrained", "random"] = "pretrained"
    """`random`: draw all weights from `seed`, to train a model from zero; of `path` only config and tokenizer are
    read."""
    config: dict[str, bool | int | float | str] = {}
    """Changes of config.json for `init: random`, such as `{hidden_size: 256, num_hidden_layers: 8}`."""

    @model_validator(mode="after")
    def _changes_need_new_weights(self) -> Self:
        if self.config and self.init == "pretrained":
            raise ValueError("config: weights that exist do not fit another config; set init=random, or leave it out")
        return self

    @model_validator(mode="after")
    def _towers_exist(self) -> Self:
        if self.text is not None and (self.init == "random" or self.revision is not None):
            raise ValueError(
                "text: two models are joined as they are: leave out init=random, and a revision, which would be that "
                "of one of them"
            )
        return self
