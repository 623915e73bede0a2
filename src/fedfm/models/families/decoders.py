"""Text decoders."""

from __future__ import annotations

from dataclasses import replace

from transformers import PretrainedConfig

from fedfm.models.families.parts import FFN, Attention, Family, Stack


def _norms_before(config: PretrainedConfig) -> bool:
    return bool(config.do_layer_norm_before)


def _norms_after(config: PretrainedConfig) -> bool:
    return not config.do_layer_norm_before


def _without_head_norms(config: PretrainedConfig) -> bool:
    return not config.qk_layernorm


def _all_sparse(config: PretrainedConfig) -> bool:
    return bool(config.decoder_sparse_step == 1 and not config.mlp_only_layers)


GPT2 = Family(
    name="gpt2",
    model_types=("gpt2",),
    stacks=(
        Stack(
            "h",
            attention=(Attention("attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj", transposed=True),),
            ffn=FFN(("mlp.c_fc",), "mlp.c_proj", transposed=True),
            norms=("ln_1", "ln_2"),
        ),
    ),
    embeddings=("wte", "wpe"),
    final_norms=("ln_f",),
    heads=("score", "classifier"),
    language_heads=("lm_head",),
    causal=True,
)
GPT_NEOX = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    stacks=(
        Stack(
            "layers",
            attention=(
                Attention(
                    "attention.query_key_value",
                    "attention.query_key_value",
                    "attention.query_key_value",
                    "attention.dense",
                ),
            ),
            ffn=FFN(("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),
            norms=("input_layernorm", "post_attention_layernorm"),
        ),
    ),
    embeddings=("embed_in",),
    final_norms=("final_layer_norm",),
    heads=("score", "classifier"),
    language_heads=("lm_head",),
    causal=True,
)
OPT = Family(
    name="opt",
    model_types=("opt",),
    stacks=(
        Stack(
            "decoder.layers",
            attention=(Attention("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),),
            ffn=FFN(("fc1",), "fc2"),
            norms=("self_attn_layer_norm", "final_layer_norm"),
        ),
    ),
    embeddings=("decoder.embed_tokens", "decoder.embed_positions", "decoder.project_in"),
    final_norms=("decoder.final_layer_norm",),
    heads=("score",),
    language_heads=("lm_head",),
    causal=True,
    when=_norms_before,
)
OPT_POST_NORM = replace(
    OPT,
    name="opt-post-norm",
    stacks=tuple(replace(stack, ffn_norm="final_layer_norm") for stack in OPT.stacks),
    when=_norms_after,
)  # OPT-350m
_LLAMA_STACK = Stack(
    "layers",
    attention=(Attention("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),),
    ffn=FFN(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    norms=("input_layernorm", "post_attention_layernorm"),
)
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_SANDWICH_NORMS = (*_LLAMA_STACK.norms, "pre_feedforward_layernorm", "post_feedforward_layernorm")
LLAMA = Family(
    name="llama",
    model_types=("llama", "mistral", "qwen2", "gemma", "smollm3", "granite"),
    stacks=(_LLAMA_STACK,),
    embeddings=("embed_tokens",),
    final_norms=("norm",),
    heads=("score",),
    language_heads=("lm_head",),
    causal=True,
)
QWEN3 = replace(
    LLAMA,
    name="qwen3",
    model_types=("qwen3",),
    stacks=(replace(_LLAMA_STACK, norms=(*_LLAMA_STACK.norms, *_HEAD_NORMS)),),
)
GEMMA2 = replace(LLAMA, name="gemma2", model_types=("gemma2",), stacks=(replace(_LLAMA_STACK, norms=_SANDWICH_NORMS),))
GEMMA3 = replace(
    LLAMA,
    name="gemma3",
    model_types=("gemma3_text",),
    stacks=(replace(_LLAMA_STACK, norms=(*_SANDWICH_NORMS, *_HEAD_NORMS)),),
)
PHI3 = replace(
    LLAMA,
    name="phi3",
    model_types=("phi3",),
    stacks=(
        replace(
            _LLAMA_STACK,
            attention=(
                Attention("self_attn.qkv_proj", "self_attn.qkv_proj", "self_attn.qkv_proj", "self_attn.o_proj"),
            ),
            ffn=FFN(("mlp.gate_up_proj",), "mlp.down_proj", fused=True),
        ),
    ),
)
PHI = Family(
    name="phi",
    model_types=("phi",),
    stacks=(
        Stack(
            "layers",
            attention=(Attention("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"),),
            ffn=FFN(("mlp.fc1",), "mlp.fc2"),
            norms=("input_layernorm",),
        ),
    ),
    embeddings=("embed_tokens",),
    final_norms=("final_layernorm",),
    heads=("score",),
    language_heads=("lm_head",),
    causal=True,
    when=_without_head_norms,
)
OLMO2 = replace(
    LLAMA,
    name="olmo2",
    model_types=("olmo2",),
    stacks=(replace(_LLAMA_STACK, norms=("post_attention_layernorm", "post_feedforward_layernorm", *_HEAD_NORMS)),),
)
_EXPERTS = ("mlp.gate", "mlp.experts")
MIXTRAL = replace(
    LLAMA, name="mixtral", model_types=("mixtral",), stacks=(replace(_LLAMA_STACK, ffn=None, others=_EXPERTS),)
)
QWEN3_MOE = replace(
    MIXTRAL,
    name="qwen3_moe",
    model_types=("qwen3_moe",),
    stacks=tuple(replace(stack, norms=(*stack.norms, *_HEAD_NORMS)) for stack in MIXTRAL.stacks),
    when=_all_sparse,
)
