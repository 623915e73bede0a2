"""Text encoders with a decoder that attends to the encoder's output."""

from __future__ import annotations

from dataclasses import replace

from transformers import PretrainedConfig

from fedfm.models.families.parts import FFN, Attention, Family, Stack


def _attention(path: str) -> Attention:
    return Attention(f"{path}.q", f"{path}.k", f"{path}.v", f"{path}.o")


def _t5_stacks(inputs: tuple[str, ...]) -> tuple[Stack, ...]:
    """Encoder and decoder, by the names of the FFN's input matrices."""
    return tuple(
        Stack(
            path,
            attention=attention,
            ffn=FFN(tuple(f"{ffn}.DenseReluDense.{name}" for name in inputs), f"{ffn}.DenseReluDense.wo"),
            norms=norms,
        )
        for path, attention, ffn, norms in (
            (
                "encoder.block",
                (_attention("layer.0.SelfAttention"),),
                "layer.1",
                ("layer.0.layer_norm", "layer.1.layer_norm"),
            ),
            (
                "decoder.block",
                (_attention("layer.0.SelfAttention"), _attention("layer.1.EncDecAttention")),
                "layer.2",
                ("layer.0.layer_norm", "layer.1.layer_norm", "layer.2.layer_norm"),
            ),
        )
    )


def _is_gated(config: PretrainedConfig) -> bool:
    return bool(config.is_gated_act)


def _is_plain(config: PretrainedConfig) -> bool:
    return not config.is_gated_act


T5 = Family(
    name="t5",
    model_types=("t5", "mt5"),
    stacks=_t5_stacks(("wi",)),
    embeddings=("shared",),
    final_norms=("encoder.final_layer_norm", "decoder.final_layer_norm"),
    heads=("classification_head", "classifier"),
    language_heads=("lm_head",),
    when=_is_plain,
)
T5_GATED = replace(T5, name="t5-gated", stacks=_t5_stacks(("wi_0", "wi_1")), when=_is_gated)  # from T5 1.1 on


def _bart_stack(path: str, *cross: str) -> Stack:
    """One stack; the decoder's blocks also attend to the encoder's output."""
    attention = ("self_attn", *cross)
    return Stack(
        path,
        attention=tuple(
            Attention(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj", f"{name}.out_proj") for name in attention
        ),
        ffn=FFN(("fc1",), "fc2"),
        norms=(*(f"{name}_layer_norm" for name in attention), "final_layer_norm"),
        ffn_norm="final_layer_norm",
    )


BART = Family(
    name="bart",
    model_types=("bart",),
    stacks=(_bart_stack("encoder.layers"), _bart_stack("decoder.layers", "encoder_attn")),
    embeddings=(
        "shared",
        "encoder.embed_positions",
        "encoder.layernorm_embedding",
        "decoder.embed_positions",
        "decoder.layernorm_embedding",
    ),
    heads=("classification_head",),
    language_heads=("lm_head",),
)
