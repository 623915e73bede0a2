"""Every row of the family registry, held against the models that transformers builds."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import PreTrainedModel

from fedfm.errors import RecipeError
from fedfm.models.families import (
    FAMILIES,
    Family,
    all_targets,
    attention_targets,
    blocks,
    family_of,
    ffn_targets,
    pattern,
)

WIDTH, NEURONS, LAYERS = 16, 24, 3
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": NEURONS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
}
TEXT = {**SIZES, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
IMAGE = {**SIZES, "image_size": 8, "patch_size": 4}
IDS = {"vocab_size": 50, "bos_token_id": 2, "eos_token_id": 3}
GROUPED = {**TEXT, "num_key_value_heads": 1}

# model type, config, the task's class
MODELS: list[tuple[str, Any, Any]] = [
    ("bert", hf.BertConfig(**TEXT), hf.AutoModelForSequenceClassification),
    ("bert", hf.BertConfig(**TEXT), hf.AutoModelForMaskedLM),
    ("roberta", hf.RobertaConfig(**TEXT), hf.AutoModelForSequenceClassification),
    ("roberta", hf.RobertaConfig(**TEXT), hf.AutoModelForMaskedLM),
    ("electra", hf.ElectraConfig(**TEXT, embedding_size=8), hf.AutoModelForSequenceClassification),
    ("electra", hf.ElectraConfig(**TEXT, embedding_size=8), hf.AutoModelForMaskedLM),
    *[
        (
            "distilbert",
            hf.DistilBertConfig(dim=WIDTH, hidden_dim=NEURONS, n_layers=LAYERS, n_heads=2, vocab_size=50),
            task,
        )
        for task in (hf.AutoModelForSequenceClassification, hf.AutoModelForMaskedLM)
    ],
    ("vit", hf.ViTConfig(**IMAGE), hf.AutoModelForImageClassification),
    ("deit", hf.DeiTConfig(**IMAGE), hf.DeiTForImageClassification),
    ("deit", hf.DeiTConfig(**IMAGE), hf.DeiTForImageClassificationWithTeacher),
    ("clip", hf.CLIPConfig(text_config=TEXT, vision_config=IMAGE, projection_dim=8), hf.AutoModel),
    ("clip", hf.CLIPConfig(text_config=TEXT, vision_config=IMAGE), hf.AutoModelForImageClassification),
    *[
        ("gpt2", hf.GPT2Config(n_embd=WIDTH, n_inner=NEURONS, n_layer=LAYERS, n_head=2, **IDS), task)
        for task in (hf.AutoModelForSequenceClassification, hf.AutoModelForCausalLM)
    ],
    *[
        (
            "opt",
            hf.OPTConfig(**SIZES, **IDS, ffn_dim=NEURONS, word_embed_proj_dim=width),
            task,
        )
        for width, task in ((WIDTH, hf.AutoModelForSequenceClassification), (8, hf.AutoModelForCausalLM))
    ],
    *[
        (model_type, config(**GROUPED), task)
        for model_type, config in (
            ("llama", hf.LlamaConfig),
            ("mistral", hf.MistralConfig),
            ("qwen2", hf.Qwen2Config),
            ("qwen3", hf.Qwen3Config),
        )
        for task in (hf.AutoModelForSequenceClassification, hf.AutoModelForCausalLM)
    ],
]


def build(config: Any, task: Any) -> PreTrainedModel:
    with torch.device("meta"):
        return task.from_config(config) if hasattr(task, "from_config") else task(config)


def identify(value: object) -> str | None:
    return value.__name__ if isinstance(value, type) else value if isinstance(value, str) else ""


models = pytest.mark.parametrize(("model_type", "config", "task"), MODELS, ids=identify)


def weight_shape(block: nn.Module, path: str, transposed: bool) -> tuple[int, ...]:
    """[out, in], however it is stored."""
    shape = tuple(block.get_submodule(path).weight.shape)
    return shape[::-1] if transposed else shape


def test_every_model_type_is_held_against_a_model() -> None:
    named = [model_type for family in FAMILIES.values() for model_type in family.model_types]
    assert sorted(named) == sorted({model_type for model_type, *_ in MODELS})
    assert all(name == family.name for name, family in FAMILIES.items())


@models
def test_blocks_are_all_there(model_type: str, config: Any, task: Any) -> None:
    model, family = build(config, task), family_of(config)
    assert model_type in family.model_types
    found = blocks(model, family)
    counts = Counter(block.stack.path for block in found)
    assert list(counts.values()) == [LAYERS] * len(counts)
    assert all(model.base_model.get_submodule(block.path) is block.module for block in found)
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    assert len(found) == sum(len(module) for module in lists)  # no stack is forgotten


@models
def test_parts_of_a_block_are_disjoint_and_whole(model_type: str, config: Any, task: Any) -> None:
    model, family = build(config, task), family_of(config)
    for block in blocks(model, family):
        parts = [*block.stack.matrices, *block.stack.norms]
        found = [f"{part}.{name}" for part in parts for name, _ in block.module.get_submodule(part).named_parameters()]
        assert sorted(found) == sorted(name for name, _ in block.module.named_parameters())


@models
def test_matrices_map_as_the_registry_says(model_type: str, config: Any, task: Any) -> None:
    model, family = build(config, task), family_of(config)
    for block in blocks(model, family):
        module, ffn = block.module, block.stack.ffn
        for path in ffn.inputs:
            assert weight_shape(module, path, ffn.transposed) == (NEURONS * (1 + ffn.fused), WIDTH)
        assert weight_shape(module, ffn.output, ffn.transposed) == (WIDTH, NEURONS)
        for attention in block.stack.attention:
            assert all(weight_shape(module, path, attention.transposed)[1] == WIDTH for path in attention.inputs)
            assert weight_shape(module, attention.output, attention.transposed)[0] == WIDTH
            if attention.fused:
                assert weight_shape(module, attention.query, attention.transposed) == (3 * WIDTH, WIDTH)


@models
def test_base_model_is_covered(model_type: str, config: Any, task: Any) -> None:
    model, family = build(config, task), family_of(config)
    base = model.base_model
    ends = [*family.embeddings, *family.final_norms, *([family.pooler] if family.pooler else [])]
    stacks = [stack.path for stack in family.stacks]
    left = [
        name
        for name, _ in base.named_parameters()
        if not any(name.startswith(f"{path}.") for path in (*ends, *stacks, *family.heads))
    ]
    beside = {"logit_scale", "visual_projection.weight", "text_projection.weight", "decoder.project_out.weight"}
    assert set(left) <= beside


@models
def test_heads_are_where_the_registry_says(model_type: str, config: Any, task: Any) -> None:
    model, family = build(config, task), family_of(config)
    base = {id(parameter) for parameter in model.base_model.parameters()} if model.base_model is not model else set()
    outside = {name for name, parameter in model.named_parameters() if id(parameter) not in base}
    heads = [*family.heads, *family.language_heads]
    named = {name for name in outside if any(name.startswith(f"{head}.") for head in heads)}
    if model.base_model is not model:
        assert {name for name in outside - named if not name.endswith(".bias")} == set()  # biases of tied matrices
    elif task is hf.AutoModelForImageClassification:
        assert named == {"classifier.weight", "classifier.bias"}


@models
@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        (attention_targets, lambda stack: stack.attention_matrices),
        (ffn_targets, lambda stack: stack.ffn_matrices),
        (all_targets, lambda stack: stack.matrices),
        (lambda family: pattern(family, lambda stack: [stack.ffn.output]), lambda stack: [stack.ffn.output]),
    ],
    ids=["attention", "ffn", "all", "pattern"],
)
def test_peft_finds_these_parts_of_every_block_and_nothing_else(
    model_type: str, config: Any, task: Any, targets: Any, parts: Any
) -> None:
    model, family = build(config, task), family_of(config)
    names = {id(module): name for name, module in model.named_modules()}
    expected = {
        names[id(block.module.get_submodule(part))] for block in blocks(model, family) for part in parts(block.stack)
    }
    chosen = LoraConfig(target_modules=targets(family))
    assert {name for name in names.values() if check_target_module_exists(chosen, name)} == expected


def test_an_ending_that_another_part_shares_becomes_a_pattern() -> None:
    bert = FAMILIES["bert"]
    assert isinstance(attention_targets(bert), list)
    chosen = ffn_targets(bert)
    assert isinstance(chosen, str)
    assert re.fullmatch(chosen, "bert.encoder.layer.11.output.dense")
    assert not re.fullmatch(chosen, "bert.encoder.layer.11.attention.output.dense")


@pytest.mark.parametrize(
    ("config", "model", "family"),
    [(hf.BertConfig(), hf.BertModel, FAMILIES["bert"]), (hf.RobertaConfig(), hf.RobertaModel, FAMILIES["roberta"])],
    ids=["bert", "roberta"],
)
def test_lora_on_attention_of_a_base_model_has_the_papers_size(config: Any, model: Any, family: Family) -> None:
    """FedPFT, arXiv:2404.11536: r = 8 on query, key, value and output: 12 layers · 4 matrices · 8 · (768 + 768)."""
    with torch.device("meta"):
        adapted = get_peft_model(model(config), LoraConfig(r=8, target_modules=attention_targets(family)))
    assert sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad) == 589_824


def test_an_unknown_architecture_is_refused_with_those_known() -> None:
    with pytest.raises(RecipeError, match=r"model\.path: models of type `t5` are not supported; known: bert, .*qwen3"):
        family_of(hf.T5Config())
