"""Identity of a backbone: digests of everything that decides its outputs. Equal identities compute the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from itertools import chain
from typing import Annotated, Any

from pydantic import Field
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, VisionTextDualEncoderProcessor

from fedfm.models.families import Family
from fedfm.models.processors import Processor
from fedfm.params import Params, digest
from fedfm.settings import Settings

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

PARTS = {
    "config": "settings in config.json",
    "weights": "weights",
    "head": "weights of its head",
    "processor": "tokenizer or image processor",
}
"""Part of an identity → its description."""

_OF_A_TASK = {"architectures", "id2label", "label2id", "num_labels", "problem_type"}
_OF_A_FILE = {"_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "auto_map", "use_cache"}


class ModelIdentity(Settings):
    """The digests of a backbone, each a sha256 (hex)."""

    config: Sha256
    """Digest of the architecture: settings that differ from its type's defaults, without labels, names, versions."""
    weights: Sha256
    """Digest of the parameters and stored buffers of the base model, as float32."""
    head: Sha256
    """Digest of the parameters of the task's head in the checkpoint; missing parameters are drawn from the seed."""
    processor: Sha256
    """Digest of the settings that turn texts into ids, or images into pixels."""

    @property
    def digest(self) -> str:
        """sha256 (hex) of the parts that do not depend on the task; names the model in a site's policy."""
        return _sha256([self.config, self.weights, self.processor])

    @property
    def named(self) -> dict[str, str]:
        """The digests under the keys of a run's identity: ``model.PART``."""
        return {f"model.{part}": getattr(self, part) for part in PARTS}

    def differences(self, other: ModelIdentity) -> list[str]:
        """Descriptions of the parts that differ."""
        return [words for part, words in PARTS.items() if getattr(self, part) != getattr(other, part)]


def identify(model: PreTrainedModel, processor: Processor, family: Family, new_head: Collection[str]) -> ModelIdentity:
    """The identity of a model as loaded from its checkpoint.

    Args:
        model: without a tunable.
        processor: its tokenizer or image processor.
        family: of the model.
        new_head: parameters that the checkpoint lacks.
    """
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    heads = tuple(
        f"{head}." for head in (*family.heads, *family.language_heads, *([family.pooler] if family.pooler else []))
    )
    base: Params = {}
    head: Params = {}
    stored = model.state_dict().keys()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        inside = name.removeprefix(prefix)
        if name in new_head or name not in stored:
            continue
        if name.startswith(prefix) and not inside.startswith(heads):
            base[inside] = tensor.detach()
        else:
            head[name] = tensor.detach()
    return ModelIdentity(
        config=_sha256(_architecture(model.config)),
        weights=digest(base),
        head=digest(head),
        processor=_sha256(_content(processor)),
    )


def _architecture(config: PretrainedConfig) -> dict[str, Any]:
    """The settings that differ from the defaults of the config's class; other versions may have more defaults."""
    return {**_chosen(config.to_dict(), type(config)().to_dict()), "model_type": config.model_type}


def _chosen(settings: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {}
    for key, value in settings.items():
        usual = default.get(key)
        if key in _OF_A_TASK or key in _OF_A_FILE or value == usual:
            continue
        chosen[key] = _chosen(value, usual) if isinstance(value, dict) and isinstance(usual, dict) else value
    return chosen


def _content(processor: Processor) -> dict[str, Any]:
    """The settings that decide the model's input; padding and truncation are set at each call."""
    if isinstance(processor, VisionTextDualEncoderProcessor):
        return {"image": _content(processor.image_processor), "text": _content(processor.tokenizer)}
    if not isinstance(processor, PreTrainedTokenizerBase):
        settings = processor.to_dict()
        return {key: value for key, value in settings.items() if value is not None and "_type" not in key}
    content: dict[str, Any] = {
        "inputs": sorted(processor.model_input_names),
        "special": {name: str(token) for name, token in processor.special_tokens_map.items()},
    }
    if processor.is_fast:
        return {
            **content,
            "backend": {**json.loads(processor.backend_tokenizer.to_str()), "truncation": 0, "padding": 0},
        }
    return {**content, "kind": type(processor).__name__, "vocabulary": processor.get_vocab()}


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
