"""Text encoders."""

from __future__ import annotations

from dataclasses import replace

from fedfm.models.families.parts import FFN, Attention, Family, Stack

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
    model_types=("roberta",),
    language_heads=("lm_head.dense", "lm_head.layer_norm"),
    pooler=None,
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
