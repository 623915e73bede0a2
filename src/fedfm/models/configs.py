"""A checkpoint's config: read, held against what is supported, and given the task's labels."""

from __future__ import annotations

import json
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from fedfm.errors import DataError, RecipeError
from fedfm.models.checkpoints import Checkpoint
from fedfm.models.families import check_type
from fedfm.models.quiet import quiet


def read_config(checkpoint: Checkpoint) -> PretrainedConfig:
    """The config of a model of a known family, in float weights.

    Raises:
        RecipeError: at ``model.path`` when the family is unknown or the weights are quantised.
        DataError: when ``config.json`` is damaged.
    """
    file = checkpoint.folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} is not a JSON object")
    check_type(str(content.get("model_type")))
    if "quantization_config" in content:
        raise RecipeError(f"{checkpoint.name} is quantised; name its float weights", where="model.path")
    try:
        with quiet():
            config: PretrainedConfig = AutoConfig.from_pretrained(
                checkpoint.folder, local_files_only=True, trust_remote_code=False
            )
    except (StrictDataclassError, OSError, ValueError) as error:
        raise DataError(f"{file} does not describe a model: {error}") from error
    return config


def max_tokens(config: PretrainedConfig) -> int | None:
    """Tokens that a model which reads text takes at once, special ones included; None where it sets no limit (T5)."""
    text = config.get_text_config()
    if not hasattr(text, "max_position_embeddings"):
        return None
    skipped = text.pad_token_id + 1 if text.model_type == "roberta" else 0  # RoBERTa counts positions from there
    return int(text.max_position_embeddings) - skipped


def set_labels(config: PretrainedConfig, labels: Sequence[str]) -> tuple[str, ...]:
    """Gives a config the task's labels, and takes the marks of an older head's task off it.

    Returns:
        The labels it had, where they have names of their own and are others or in another order; else nothing.
    """
    before = tuple(label for _, label in sorted(dict(config.id2label or {}).items()))
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = "single_label_classification"  # others make sigmoids, or a regression, of the same logits
    unnamed = tuple(f"LABEL_{index}" for index in range(len(before)))
    return () if before in (unnamed, tuple(labels)) else before
