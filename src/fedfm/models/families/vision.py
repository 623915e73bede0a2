"""Models that see, some of which also read."""

from __future__ import annotations

from fedfm.models.families.parts import FFN, Attention, Family, Stack

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
    heads=("classifier",),
    modality="image-text",
)
