"""Reads the config of a checkpoint, checks that it is supported, and sets the task's labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from fedfm.errors import DataError, RecipeError
from fedfm.models.checkpoints import PretrainedCheckpoint
from fedfm.models.families import check_type, family_of
from fedfm.models.families.parts import after_padding
from fedfm.models.quiet import quiet
from fedfm.spelling import nearest

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""transformers' names of what a model with labels predicts."""

_ORIGINAL_LENGTH = "original_max_position_embeddings"

_CONFIG = "model.config"

_REFERENCES = ("configuration_files", "transformers_weights", "fusion_config")
"""Settings with which transformers reads the config or the weights from other files, or replaces a model's code."""


def read_config(checkpoint: PretrainedCheckpoint) -> PretrainedConfig:
    """The config of a model of a supported type with float weights, with the recipe's changes.

    Raises:
        RecipeError: at ``model.path``: the type is not supported, the weights are quantised, or the config refers to
            other files or other code; at ``model.config``: a change does not fit.
        DataError: ``config.json`` is damaged.
    """
    file = checkpoint.folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} is not a JSON object")
    check_type(str(content.get("model_type")))
    _refuse_indirect(content, checkpoint.name)
    try:
        with quiet():
            config: PretrainedConfig = AutoConfig.from_pretrained(
                checkpoint.folder, local_files_only=True, trust_remote_code=False
            )
    except (StrictDataclassError, OSError, ValueError) as error:
        raise DataError(f"{file} does not describe a model: {error}") from error
    if checkpoint.changes:
        config = _changed(config, checkpoint.changes)
    text = config.get_text_config()
    if (pad := getattr(text, "pad_token_id", None)) is not None and not 0 <= pad < getattr(text, "vocab_size", 0):
        text.pad_token_id = None  # it is not a token, as in Llama's first configs (-1)
    return config


def _changed(config: PretrainedConfig, changes: Mapping[str, Any]) -> PretrainedConfig:
    """A config with other values.

    Raises:
        RecipeError: at ``model.config``: it has no such value that a recipe may change, or the model cannot have it.
    """
    before = config.to_dict()
    known = {key: value for key, value in before.items() if _may_change(key, value)}
    for key in changes:
        if key not in known:
            near = nearest(key, known)
            hint = f"; did you mean `{near}`?" if near else f"; it has {', '.join(sorted(known))}"
            raise RecipeError(f"config.json of {config.model_type} has no number or word `{key}`{hint}", where=_CONFIG)
    follows = "head_dim" not in changes and before.get("head_dim") == _head_dim(before)
    content = {key: value for key, value in before.items() if not (follows and key == "head_dim")} | dict(changes)
    try:
        with quiet():
            return type(config).from_dict(content)
    except (StrictDataclassError, TypeError, ValueError, ArithmeticError) as error:
        raise RecipeError(f"{config.model_type} cannot have these values: {error}", where=_CONFIG) from error


def _may_change(key: str, value: Any) -> bool:
    """Whether a recipe may change a value of a config: numbers, words and switches of the architecture."""
    refers = key in (*_REFERENCES, "model_type", "dtype", "transformers_version") or key.startswith("_")
    return isinstance(value, bool | int | float | str) and not refers and not key.endswith("_implementation")


def _head_dim(content: Mapping[str, Any]) -> int | None:
    """The size of attention heads that follows from other values, as families compute it where it is not given."""
    width, heads = content.get("hidden_size"), content.get("num_attention_heads")
    return width // heads if width and heads else None


def _refuse_indirect(settings: Any, name: str) -> None:
    """Refuses settings, at any depth, with which other files or code than this config and its weights would be used."""
    if not isinstance(settings, dict):
        return
    if settings.get("quantization_config") is not None:
        raise RecipeError(f"{name} is quantised; use the model with float weights", where="model.path")
    for key, value in settings.items():
        code = key.strip("_").endswith("_implementation") and "/" in str(value)
        if value is not None and (key in _REFERENCES or code):
            raise RecipeError(
                f"config.json of {name} sets `{key}`, which refers to other files or other code; remove that setting "
                "if the model works without it",
                where="model.path",
            )
        _refuse_indirect(value, name)


def max_tokens(config: PretrainedConfig) -> int | None:
    """Maximum number of tokens of a model that reads text, including special tokens; None if it has no limit (T5).

    LongRoPE (Phi-3) rescales the positions of a whole batch if its longest text exceeds the original length. For such
    models the original length is the limit: the logits of a text must not depend on the other texts of its batch.
    """
    text = config.get_text_config()
    if not hasattr(text, "max_position_embeddings"):
        return None
    first = family_of(config).first_position
    skipped = first(config) if first else 0
    rope = getattr(text, "rope_parameters", None) or {}
    scaled = [part for part in (rope, *rope.values()) if isinstance(part, dict) and part.get("rope_type") == "longrope"]
    return min([int(text.max_position_embeddings) - skipped, *(int(part[_ORIGINAL_LENGTH]) for part in scaled)])


def counts_from_padding(config: PretrainedConfig) -> bool:
    """Whether a model's first position is its padding id plus one; it was then trained with this padding id."""
    return family_of(config).first_position is after_padding


def set_labels(config: PretrainedConfig, labels: Sequence[str], problem_type: ProblemType) -> tuple[str, ...]:
    """Sets the task's labels in a config, and removes the settings of an earlier task.

    Args:
        config: changed.
        labels: names of the model's outputs.
        problem_type: transformers' name of what they are; it decides the loss, and what pipelines compute.

    Returns:
        The earlier labels, if they have real names and differ from the task's labels or their order; otherwise nothing.
    """
    before = tuple(label for _, label in sorted(dict(config.id2label or {}).items()))
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = problem_type
    unnamed = tuple(f"LABEL_{index}" for index in range(len(before)))
    return () if before in (unnamed, tuple(labels)) else before
