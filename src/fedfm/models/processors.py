"""Processors, which create a model's input: a tokenizer for text, an image processor for images."""

from __future__ import annotations

from typing import Any, Literal

from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    VisionTextDualEncoderProcessor,
)

from fedfm.errors import RecipeError
from fedfm.models.checkpoints import PretrainedCheckpoint
from fedfm.models.configs import max_tokens
from fedfm.models.padding import choose_padding
from fedfm.models.quiet import quiet

Modality = Literal["text", "image", "image-text"]
"""Type of a task's inputs."""

SingleProcessor = PreTrainedTokenizerBase | BaseImageProcessor
"""A tokenizer or an image processor."""

Processor = SingleProcessor | VisionTextDualEncoderProcessor
"""A tokenizer, an image processor, or one of each."""

_TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model")  # without any, AutoTokenizer creates an empty tokenizer


def read_processor(checkpoint: PretrainedCheckpoint, config: PretrainedConfig, modality: Modality) -> Processor:
    """A checkpoint's tokenizer or image processor, or both.

    A tokenizer pads on the right with the model's padding token, and its ``model_max_length`` is at most the limit of
    the model.

    Raises:
        RecipeError: at ``model.path``: the checkpoint has no readable processor, its tokenizer cannot pad, or the model
            does not read both images and texts.
    """
    if modality == "image-text":
        if not (hasattr(config, "vision_config") and hasattr(config, "text_config")):
            raise RecipeError(
                f"{checkpoint.name} ({config.model_type}) does not read both images and texts: name a CLIP model, or a "
                "model of images here and one of texts as `model.text`",
                where="model.path",
            )
        return VisionTextDualEncoderProcessor(_read_image_processor(checkpoint), _read_tokenizer(checkpoint, config))
    return _read_tokenizer(checkpoint, config) if modality == "text" else _read_image_processor(checkpoint)


def _read_tokenizer(checkpoint: PretrainedCheckpoint, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    if not any(file for files in _TOKENIZER_FILES for file in checkpoint.folder.glob(files)):
        raise RecipeError(f"{checkpoint.name} has no files of a tokenizer", where="model.path")
    tokenizer: PreTrainedTokenizerBase = _read(AutoTokenizer, "tokenizer", checkpoint)
    choose_padding(tokenizer, config, checkpoint.name)
    if (limit := max_tokens(config)) is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return tokenizer


def _read_image_processor(checkpoint: PretrainedCheckpoint) -> BaseImageProcessor:
    processor: BaseImageProcessor = _read(AutoImageProcessor, "image processor", checkpoint, backend="pil")
    return processor


def _read(auto_class: Any, kind: str, checkpoint: PretrainedCheckpoint, **options: str) -> Any:
    try:
        with quiet():
            return auto_class.from_pretrained(
                checkpoint.folder, local_files_only=True, trust_remote_code=False, **options
            )
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(f"the {kind} of {checkpoint.name} cannot be read: {error}", where="model.path") from error
