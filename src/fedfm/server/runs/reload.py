"""Loads the artifacts of a run with plain transformers and plain peft, and compares them with the measured model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    VisionTextDualEncoderProcessor,
)

from fedfm.data.images import Framing, PixelStatistics
from fedfm.models.adapter_files import HOOKED
from fedfm.models.backbones import Backbone
from fedfm.models.processors import Processor
from fedfm.models.quiet import quiet
from fedfm.models.towers import open_checkpoint
from fedfm.models.tunable import Tunable
from fedfm.printable import line
from fedfm.recipe import Recipe
from fedfm.tasks.base import Batch, Task
from fedfm.tasks.classification import channels

TOLERANCE = 1e-3
"""Largest difference between logits, over the largest logit, at which two models count as the same."""

TEXTS = ("a probe", "another one, of more tokens than the first")
"""Texts for the comparison, of two lengths, so that one of them is padded."""


@dataclass(frozen=True)
class Reloaded:
    """The comparison of the written model with the measured model.

    Attributes:
        library: the library that loaded it.
        difference: largest difference between logits, over the largest logit; None without a comparison.
        reason: why there was no comparison.
        loads: whether it can be loaded and gives logits.
    """

    library: str
    difference: float | None
    reason: str | None = None
    loads: bool = True

    @property
    def agrees(self) -> bool | None:
        """Whether the two are the same model; None without a comparison."""
        if not self.loads:
            return False
        return None if self.difference is None else self.difference <= TOLERANCE

    def record(self) -> dict[str, Any]:
        """The record in summary.json."""
        return {"with": self.library, "difference": self.difference, "agrees": self.agrees, "reason": self.reason}


def reload(target: Path, tunable: Tunable, backbone: Backbone, recipe: Recipe) -> Reloaded:
    """Loads an adapter or a model and compares its logits on one synthetic batch with those of the measured model.

    Args:
        target: ``adapter/`` or ``model/``.
        tunable: the measured model.
        backbone: its backbone.
        recipe: the recipe of the run.
    """
    hooked = (target / HOOKED).is_file()
    whole = not hooked and not (target / "adapter_config.json").is_file()
    library = "transformers" if whole or hooked else "peft"
    room, needed = psutil.virtual_memory().available, sum(p.nbytes for p in tunable.model.parameters())
    if needed > room:
        return Reloaded(library, None, f"a second model of {needed:,} bytes does not fit into memory ({room:,} free)")
    task = recipe.task
    measured = _outputs(task, tunable.model, _measured_input(backbone.processor))
    try:
        with quiet():
            again = _whole(target, recipe) if whole else tunable.loaded(_base(backbone, recipe), target)
            found = _outputs(task, again, _plain_input(target, task.modality))
    except Exception as error:  # any error of the libraries is the result; the run itself is valid
        return Reloaded(library, None, f"it does not load: {line(error)}", loads=False)
    if found.shape != measured.shape:
        shapes = f"{tuple(found.shape)}, not {tuple(measured.shape)}"
        return Reloaded(library, None, f"its logits have the shape {shapes}", loads=False)
    difference = (found - measured).abs().max() / measured.abs().max()
    return Reloaded(library, float(difference))


def _whole(target: Path, recipe: Recipe) -> PreTrainedModel:
    model: PreTrainedModel = recipe.task.auto_class.from_pretrained(target, dtype=torch.float32, local_files_only=True)
    model.eval()
    return model


def _base(backbone: Backbone, recipe: Recipe) -> PreTrainedModel:
    """The base of an adapter, loaded by the calls on the adapter's card."""
    config = backbone.model.config
    labels = {}
    if recipe.task.labelled:
        labels = {name: getattr(config, name) for name in ("id2label", "label2id", "problem_type")}
    with open_checkpoint(recipe.model, allow_network=recipe.allow_network) as checkpoint:
        base: PreTrainedModel = recipe.task.auto_class.from_pretrained(
            checkpoint.folder, **labels, dtype=torch.float32, ignore_mismatched_sizes=True, local_files_only=True
        )
    if isinstance(backbone.processor, PreTrainedTokenizerBase):
        base.config.get_text_config().pad_token_id = backbone.processor.pad_token_id
    return base


def _measured_input(processor: Processor) -> Batch:
    """The batch, prepared by fedfm."""
    if isinstance(processor, VisionTextDualEncoderProcessor):
        return _measured_input(processor.image_processor) | _measured_input(processor.tokenizer)
    if isinstance(processor, PreTrainedTokenizerBase):
        return dict(processor(list(TEXTS), padding=True, return_tensors="pt"))
    framing, colours = Framing.of(processor), channels(processor)
    framed = framing.apply(_image().convert("RGB" if colours == 3 else "L"))
    pixels = torch.from_numpy(np.array(framed)).reshape(framing.height, framing.width, -1).permute(2, 0, 1)
    return {"pixel_values": PixelStatistics.of(processor, colours).pixels(pixels[None])}


def _plain_input(target: Path, modality: str) -> Batch:
    """The batch, prepared by the tokenizer or image processor that was written with the model."""
    if modality == "image-text":
        return _plain_input(target, "image") | _plain_input(target, "text")
    if modality == "text":
        return dict(AutoTokenizer.from_pretrained(target)(list(TEXTS), padding=True, return_tensors="pt"))
    return dict(AutoImageProcessor.from_pretrained(target, backend="pil")(images=[_image()], return_tensors="pt"))


def _image() -> Image.Image:
    """An image that every processor must resize: neither square nor of a common size."""
    return Image.fromarray(np.linspace(0, 255, 40 * 56 * 3).reshape(40, 56, 3).astype(np.uint8))


@torch.inference_mode()
def _outputs(task: Task, model: torch.nn.Module, batch: Batch) -> Tensor:
    device = next(model.parameters()).device
    return task.outputs(model, {name: tensor.to(device) for name, tensor in batch.items()}).float().cpu()
