"""Opens a backbone: one checkpoint, or two that become one model, the towers of transformers' `VisionTextDualEncoder`.

Zhai et al., LiT: Zero-Shot Transfer with Locked-image text Tuning, arXiv:2111.07991: towers that were pretrained apart
are joined by contrastive training. The joined checkpoint has no projections to the common space: they are new and drawn
from the recipe's seed, as any head that a checkpoint lacks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, PretrainedConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderProcessor

from fedfm.errors import RecipeError
from fedfm.models import checkpoints
from fedfm.models.checkpoints import PretrainedCheckpoint
from fedfm.models.configs import read_config
from fedfm.models.families import family_of
from fedfm.models.families.two_towers import IMAGE, TEXT
from fedfm.models.processors import read_processor
from fedfm.models.quiet import quiet
from fedfm.models.settings import ModelSettings
from fedfm.models.weights import WHOLE, read_weights, weight_files

PREFIX = "towers:"
"""Begins the name of a joined model, which no other program could load by it."""
WIDEST = 512
"""Width of the common space, at most: CLIP ViT-B/32's."""


@contextmanager
def open_checkpoint(settings: ModelSettings, *, allow_network: bool = False) -> Iterator[PretrainedCheckpoint]:
    """The files of a backbone, as `checkpoints.open_checkpoint`; of two models, those of the joined one.

    Raises:
        RecipeError: as there; at ``model.path`` or ``model.text``: a tower reads the other kind of input, or lacks
            weights.
        DataError: as there.
    """
    with ExitStack() as opened:
        image = opened.enter_context(checkpoints.open_checkpoint(settings, allow_network=allow_network))
        if settings.text is None:
            yield image
            return
        other = settings.model_copy(update={"path": settings.text, "text": None})
        try:
            text = opened.enter_context(checkpoints.open_checkpoint(other, allow_network=allow_network))
        except RecipeError as error:
            raise RecipeError(error.problems[0].message, where="model.text") from error
        folder = Path(opened.enter_context(TemporaryDirectory(prefix="fedfm-")))
        _join(image, text, folder)
        names = [Path(one.name).name if one.folder == Path(one.name) else one.name for one in (image, text)]
        yield PretrainedCheckpoint(folder, PREFIX + " + ".join(names))


def _join(image: PretrainedCheckpoint, text: PretrainedCheckpoint, folder: Path) -> None:
    """Writes the joined model: config, weights of both towers, image processor and tokenizer."""
    towers = ((image, "image", "model.path", IMAGE), (text, "text", "model.text", TEXT))
    configs: list[PretrainedConfig] = []
    weights = {"logit_scale": torch.tensor(VisionTextDualEncoderConfig.logit_scale_init_value)}
    for checkpoint, modality, where, path in towers:
        config = read_config(checkpoint)
        if family_of(config).modality != modality:
            raise RecipeError(f"{checkpoint.name} ({config.model_type}) is no model of {modality}s alone", where=where)
        configs.append(config)
        weights |= {f"{path}.{name}": tensor for name, tensor in _weights(checkpoint, config, where).items()}
    width = min(WIDEST, *(config.hidden_size for config in configs))
    joined = VisionTextDualEncoderConfig.from_vision_text_configs(*configs, projection_dim=width)
    joined.architectures = ["VisionTextDualEncoderModel"]
    save_file(weights, folder / WHOLE, metadata={"format": "pt"})
    with quiet():
        joined.save_pretrained(folder)
        VisionTextDualEncoderProcessor(
            read_processor(image, configs[0], "image"), read_processor(text, configs[1], "text")
        ).save_pretrained(folder)


def _weights(checkpoint: PretrainedCheckpoint, config: PretrainedConfig, where: str) -> dict[str, Tensor]:
    """The weights that a checkpoint has of a tower without a task's head, by their names in the tower."""
    kind: Any = AutoModel._model_mapping[type(config)]
    with quiet():
        tower, report = kind.from_pretrained(
            None,
            config=copy.deepcopy(config),
            state_dict=read_weights(weight_files(checkpoint.folder, checkpoint.name), checkpoint.name),
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = set(report["missing_keys"])
    if lost := sorted(name for name in missing if not name.startswith("pooler.")):
        raise RecipeError(f"the checkpoint of {checkpoint.name} lacks weights of the model: {lost[0]}", where=where)
    return {name: tensor.contiguous() for name, tensor in tower.state_dict().items() if name not in missing}
