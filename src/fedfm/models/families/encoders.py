"""Text encoders."""

from __future__ import annotations

from dataclasses import replace

from transformers import PretrainedConfig

from fedfm.models.families.parts import FFN, Attention, Family, Stack, after_padding


def _one_group(config: PretrainedConfig) -> bool:
    return bool(config.num_hidden_groups == 1 and config.inner_group_num == 1)


BERT = Family(
    name="bert",
    model_types=("bert",),
    stacks=(
        Stack(
            "encoder.layer",
            attention=(
                Attention(
                    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"
                ),
            ),
            ffn=FFN(("intermediate.dense",), "output.dense"),
            norms=("attention.output.LayerNorm", "output.LayerNorm"),
            ffn_norm="output.LayerNorm",
        ),
    ),
    embeddings=("embeddings",),
    heads=("classifier",),
    language_heads=("cls.predictions.transform",),
    pooler="pooler",
    first_token="attention.output",  # noqa: S106 - no password
)
ROBERTA = replace(
    BERT,
    name="roberta",
    model_types=("roberta", "xlm-roberta", "camembert"),
    language_heads=("lm_head.dense", "lm_head.layer_norm"),
    pooler=None,
    first_position=after_padding,
)
ELECTRA = replace(
    BERT,
    name="electra",
    model_types=("electra",),
    embeddings=("embeddings", "embeddings_project"),
    language_heads=("generator_predictions",),
    pooler=None,
)
DEBERTA = Family(
    name="deberta-v2",
    model_types=("deberta-v2",),  # DeBERTa-v3 too
    stacks=tuple(
        replace(
            stack,
            attention=(
                Attention(
                    "attention.self.query_proj",
                    "attention.self.key_proj",
                    "attention.self.value_proj",
                    "attention.output.dense",
                ),
            ),
        )
        for stack in BERT.stacks
    ),
    embeddings=("embeddings", "encoder.rel_embeddings", "encoder.LayerNorm"),
    heads=("pooler", "classifier"),
    reads_positions=True,
    language_heads=("cls.predictions.transform", "lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm"),
)
DISTILBERT = Family(
    name="distilbert",
    model_types=("distilbert",),
    stacks=(
        Stack(
            "transformer.layer",
            attention=(Attention("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),),
            ffn=FFN(("ffn.lin1",), "ffn.lin2"),
            norms=("sa_layer_norm", "output_layer_norm"),
            ffn_norm="output_layer_norm",
        ),
    ),
    embeddings=("embeddings",),
    heads=("pre_classifier", "classifier"),
    language_heads=("vocab_transform", "vocab_layer_norm"),
)
MPNET = Family(
    name="mpnet",
    model_types=("mpnet",),
    stacks=tuple(
        replace(
            stack,
            attention=(Attention("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"),),
            norms=("attention.LayerNorm", "output.LayerNorm"),
        )
        for stack in BERT.stacks
    ),
    embeddings=("embeddings", "encoder.relative_attention_bias"),
    heads=("classifier",),
    language_heads=("lm_head.dense", "lm_head.layer_norm"),
    first_position=lambda config: 2,  # independent of its padding id
)
MODERNBERT = Family(
    name="modernbert",
    model_types=("modernbert",),
    stacks=(
        Stack(
            "layers",
            attention=(Attention("attn.Wqkv", "attn.Wqkv", "attn.Wqkv", "attn.Wo"),),
            ffn=FFN(("mlp.Wi",), "mlp.Wo", fused=True),
            norms=("attn_norm", "mlp_norm"),
        ),
    ),
    embeddings=("embeddings",),
    final_norms=("final_norm",),
    heads=("classifier",),
    language_heads=("head",),
)
ALBERT = Family(
    name="albert",
    model_types=("albert",),
    stacks=(
        Stack(
            "encoder.albert_layer_groups.0.albert_layers",
            attention=(Attention("attention.query", "attention.key", "attention.value", "attention.dense"),),
            ffn=FFN(("ffn",), "ffn_output"),
            norms=("attention.LayerNorm", "full_layer_layer_norm"),
            ffn_norm="full_layer_layer_norm",
        ),
    ),
    embeddings=("embeddings", "encoder.embedding_hidden_mapping_in"),
    heads=("classifier",),
    language_heads=("predictions.dense", "predictions.LayerNorm"),
    pooler="pooler",
    repeats_blocks=True,
    when=_one_group,
)
