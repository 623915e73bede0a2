"""Vision models, and models of vision and text."""

from __future__ import annotations

from dataclasses import replace

from transformers import PretrainedConfig

from fedfm.models.families.parts import FFN, Attention, Family, Stack
from fedfm.models.families.two_towers import PROJECTIONS

VIT = Family(
    name="vit",
    model_types=("vit", "deit"),
    stacks=(
        Stack(
            "layers",
            attention=(Attention("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),),
            ffn=FFN(("mlp.fc1",), "mlp.fc2"),
            norms=("layernorm_before", "layernorm_after"),
        ),
    ),
    embeddings=("embeddings",),
    final_norms=("layernorm",),
    heads=("classifier", "cls_classifier", "distillation_classifier"),
    modality="image",
)
CLIP = Family(
    name="clip",
    model_types=("clip",),
    stacks=tuple(
        Stack(
            f"{tower}.encoder.layers",
            attention=(Attention("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),),
            ffn=FFN(("mlp.fc1",), "mlp.fc2"),
            norms=("layer_norm1", "layer_norm2"),
        )
        for tower in ("text_model", "vision_model")
    ),
    embeddings=("text_model.embeddings", "vision_model.embeddings", "vision_model.pre_layrnorm"),
    final_norms=("text_model.final_layer_norm", "vision_model.post_layernorm"),
    heads=("classifier", *PROJECTIONS),
    modality="image-text",
)


def _is_gated(config: PretrainedConfig) -> bool:
    return bool(config.use_swiglu_ffn)


def _is_plain(config: PretrainedConfig) -> bool:
    return not config.use_swiglu_ffn


DINOV2 = Family(
    name="dinov2",
    model_types=("dinov2", "dinov2_with_registers"),
    stacks=(
        Stack(
            "encoder.layer",
            attention=VIT.stacks[0].attention,
            ffn=FFN(("mlp.fc1",), "mlp.fc2"),
            norms=("norm1", "norm2"),
            others=("layer_scale1", "layer_scale2"),
        ),
    ),
    embeddings=("embeddings",),
    final_norms=("layernorm",),
    heads=("classifier",),
    when=_is_plain,
    modality="image",
)
DINOV2_GATED = replace(
    DINOV2,
    name="dinov2-gated",
    stacks=tuple(replace(stack, ffn=FFN(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj")) for stack in DINOV2.stacks),
    when=_is_gated,
)  # DINOv2-giant
SIGLIP = replace(
    CLIP,
    name="siglip",
    model_types=("siglip",),
    embeddings=("text_model.embeddings", "vision_model.embeddings"),
    beside_blocks=("vision_model.head.mlp.fc1", "vision_model.head.mlp.fc2"),
)
