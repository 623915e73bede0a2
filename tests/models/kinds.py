"""Kinds of models that are not built in, as small as the built-in ones, with their tokenizers or image processors."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers as hf

from fedfm.models.builtin import RANDOM_MODELS, write_random_model
from fedfm.models.quiet import quiet


@dataclass(frozen=True)
class Kind:
    """A model type: the builtin it is like, its config's class, settings beside the builtin's, and its tasks."""

    like: str
    config: type[hf.PretrainedConfig]
    changes: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ("text", "masked")

    def make(self) -> Any:
        """The config."""
        same = RANDOM_MODELS[self.like].config().to_dict()
        for key in ("model_type", "architectures", "layer_types", "transformers_version"):
            same.pop(key, None)
        return self.config(**{**same, **self.changes})


_DECODER = ("text", "causal")
_IMAGE = ("image",)
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_TOWERS = {
    name: {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        **more,
    }
    for name, more in (
        ("text_config", {"vocab_size": 261, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}),
        ("vision_config", {"image_size": 8, "patch_size": 4}),
    )
}
KINDS: dict[str, Kind] = {
    "electra": Kind("tiny-bert", hf.ElectraConfig, {"embedding_size": 8}),
    "xlm-roberta": Kind("tiny-roberta", hf.XLMRobertaConfig),
    "camembert": Kind("tiny-roberta", hf.CamembertConfig),
    "mpnet": Kind("tiny-roberta", hf.MPNetConfig),
    "modernbert": Kind(
        "tiny-bert",
        hf.ModernBertConfig,
        {
            "cls_token_id": 2,
            "sep_token_id": 3,
            "global_attn_every_n_layers": 2,
            "local_attention": 6,
            "classifier_dropout": 0.0,
        },
    ),
    "albert": Kind("tiny-bert", hf.AlbertConfig, {"embedding_size": 8}),
    "opt, norms behind": Kind("tiny-opt", hf.OPTConfig, {"do_layer_norm_before": False}, _DECODER),
    "qwen2": Kind("tiny-qwen3", hf.Qwen2Config, tasks=_DECODER),
    "gemma2": Kind("tiny-gemma", hf.Gemma2Config, tasks=_DECODER),
    "gemma3": Kind("tiny-gemma", hf.Gemma3TextConfig, tasks=_DECODER),
    "smollm3": Kind("tiny-llama", hf.SmolLM3Config, tasks=_DECODER),
    "granite": Kind("tiny-llama", hf.GraniteConfig, {"residual_multiplier": 0.5, "logits_scaling": 2.0}, ("causal",)),
    "olmo2": Kind("tiny-llama", hf.Olmo2Config, tasks=_DECODER),
    "phi": Kind("tiny-llama", hf.PhiConfig, {"tie_word_embeddings": False}, _DECODER),
    "mixtral": Kind("tiny-llama", hf.MixtralConfig, _EXPERTS, _DECODER),
    "qwen3-moe": Kind("tiny-qwen3", hf.Qwen3MoeConfig, _EXPERTS, _DECODER),
    "t5, gated": Kind("tiny-t5", hf.T5Config, {"feed_forward_proj": "gated-gelu"}, ("text",)),
    "bart": Kind("tiny-bart", hf.BartConfig, tasks=("text",)),
    "deit": Kind("tiny-vit", hf.DeiTConfig, tasks=_IMAGE),
    "dinov2": Kind("tiny-vit", hf.Dinov2Config, {"mlp_ratio": 2}, _IMAGE),
    "dinov2, gated": Kind("tiny-vit", hf.Dinov2Config, {"mlp_ratio": 3, "use_swiglu_ffn": True}, _IMAGE),
    "siglip": Kind("tiny-vit", hf.SiglipConfig, _TOWERS, _IMAGE),
}

UNDESCRIBED: dict[str, Kind] = {
    "bloom": Kind("tiny-gpt2", hf.BloomConfig, {"hidden_size": 16, "n_head": 2, "n_layer": 2}, _DECODER),
    "cohere": Kind("tiny-llama", hf.CohereConfig, tasks=("causal",)),
    "roformer": Kind("tiny-bert", hf.RoFormerConfig, {"embedding_size": 16}),
    "swin": Kind(
        "tiny-vit",
        hf.SwinConfig,
        {"embed_dim": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "window_size": 2, "patch_size": 2},
        _IMAGE,
    ),
}
"""Model types without a family."""


_FOLDERS = TemporaryDirectory(prefix="fedfm-kinds-")


@cache
def folder_of(name: str) -> Path:
    """The checkpoint of a kind."""
    folder = Path(_FOLDERS.name) / name.replace(", ", "-")
    kind = (KINDS | UNDESCRIBED)[name]
    write_random_model(kind.like, folder)
    torch.manual_seed(0)
    with quiet():
        hf.AutoModel.from_config(kind.make()).save_pretrained(folder)
    return folder
