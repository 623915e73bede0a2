"""Every row of the registry of families against the models that transformers builds."""

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
HEADS = {**GROUPED, "head_dim": WIDTH // 2}
RELATIVE = {  # DeBERTa-v3's
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
}
T5 = {"d_model": WIDTH, "d_kv": WIDTH // 2, "d_ff": NEURONS, "num_layers": LAYERS, "num_heads": 2, **IDS}

BART = {  # every size of the encoder, and of the decoder
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in (("layers", LAYERS), ("ffn_dim", NEURONS), ("attention_heads", 2))
} | {"d_model": WIDTH, "pad_token_id": 0, **IDS}

# model type, config, the task's class
MODELS: list[tuple[str, Any, Any]] = [
    ("bert", hf.BertConfig(**TEXT), hf.AutoModelForSequenceClassification),
    ("bert", hf.BertConfig(**TEXT), hf.AutoModelForMaskedLM),
    ("roberta", hf.RobertaConfig(**TEXT), hf.AutoModelForSequenceClassification),
    ("roberta", hf.RobertaConfig(**TEXT), hf.AutoModelForMaskedLM),
    *[
        (config.model_type, config, task)
        for config in (
            hf.XLMRobertaConfig(**TEXT),
            hf.CamembertConfig(**TEXT),
            hf.MPNetConfig(**TEXT),
            hf.ModernBertConfig(**TEXT, cls_token_id=2, sep_token_id=3, global_attn_every_n_layers=2),
            hf.AlbertConfig(**TEXT, embedding_size=8),
        )
        for task in (hf.AutoModelForSequenceClassification, hf.AutoModelForMaskedLM)
    ],
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
    ("deberta-v2", hf.DebertaV2Config(**TEXT, **RELATIVE), hf.AutoModelForSequenceClassification),
    ("deberta-v2", hf.DebertaV2Config(**TEXT, **RELATIVE, conv_kernel_size=3), hf.AutoModelForMaskedLM),
    ("deberta-v2", hf.DebertaV2Config(**TEXT, **RELATIVE, legacy=False), hf.AutoModelForMaskedLM),
    ("vit", hf.ViTConfig(**IMAGE), hf.AutoModelForImageClassification),
    ("deit", hf.DeiTConfig(**IMAGE), hf.DeiTForImageClassification),
    ("deit", hf.DeiTConfig(**IMAGE), hf.DeiTForImageClassificationWithTeacher),
    ("dinov2", hf.Dinov2Config(**IMAGE, mlp_ratio=2), hf.AutoModelForImageClassification),
    ("dinov2", hf.Dinov2Config(**IMAGE, mlp_ratio=2, use_swiglu_ffn=True), hf.AutoModelForImageClassification),
    ("dinov2_with_registers", hf.Dinov2WithRegistersConfig(**IMAGE, mlp_ratio=2), hf.AutoModelForImageClassification),
    ("clip", hf.CLIPConfig(text_config=TEXT, vision_config=IMAGE, projection_dim=8), hf.AutoModel),
    ("siglip", hf.SiglipConfig(text_config=TEXT, vision_config=IMAGE), hf.AutoModel),
    ("siglip", hf.SiglipConfig(text_config=TEXT, vision_config=IMAGE), hf.AutoModelForImageClassification),
    ("clip", hf.CLIPConfig(text_config=TEXT, vision_config=IMAGE), hf.AutoModelForImageClassification),
    *[
        ("gpt2", hf.GPT2Config(n_embd=WIDTH, n_inner=NEURONS, n_layer=LAYERS, n_head=2, **IDS), task)
        for task in (hf.AutoModelForSequenceClassification, hf.AutoModelForCausalLM)
    ],
    *[
        (
            "opt",
            hf.OPTConfig(**SIZES, **IDS, ffn_dim=NEURONS, word_embed_proj_dim=width, do_layer_norm_before=before),
            task,
        )
        for width, before, task in (
            (WIDTH, True, hf.AutoModelForSequenceClassification),
            (WIDTH, True, hf.AutoModelForCausalLM),
            (8, False, hf.AutoModelForSequenceClassification),
            (8, False, hf.AutoModelForCausalLM),
        )
    ],
    *[
        (config.model_type, config, task)
        for config in (
            hf.GPTNeoXConfig(**TEXT),
            hf.LlamaConfig(**GROUPED),
            hf.MistralConfig(**GROUPED),
            hf.Qwen2Config(**GROUPED),
            hf.Qwen3Config(**GROUPED),
            hf.GemmaConfig(**HEADS),
            hf.Gemma2Config(**HEADS),
            hf.Gemma3TextConfig(**HEADS),
            hf.SmolLM3Config(**GROUPED),
            hf.Olmo2Config(**GROUPED),
            hf.PhiConfig(**TEXT),
            hf.Phi3Config(**GROUPED),
            hf.MixtralConfig(**GROUPED, num_local_experts=4),
            hf.Qwen3MoeConfig(**HEADS, moe_intermediate_size=NEURONS, num_experts=4, num_experts_per_tok=2),
        )
        for task in (hf.AutoModelForSequenceClassification, hf.AutoModelForCausalLM)
    ],
    ("granite", hf.GraniteConfig(**GROUPED), hf.AutoModelForCausalLM),
    *[
        (config.model_type, config(**T5, feed_forward_proj=ffn), task)
        for config in (hf.T5Config, hf.MT5Config)
        for ffn in ("relu", "gated-gelu")
        for task in (hf.AutoModelForSequenceClassification, hf.AutoModelForSeq2SeqLM)
    ],
    *[
        ("bart", hf.BartConfig(**BART), task)
        for task in (hf.AutoModelForSequenceClassification, hf.AutoModelForSeq2SeqLM)
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
    assert sorted(set(named)) == sorted({model_type for model_type, *_ in MODELS})
    assert {family_of(config).name for _, config, _ in MODELS} == FAMILIES.keys()
    assert all(name == family.name for name, family in FAMILIES.items())


@models
def test_blocks_are_all_there(model_type: str, config: Any, task: Any) -> None:
    model, family = build(config, task), family_of(config)
    assert model_type in family.model_types
    found = blocks(model, family)
    counts = Counter(block.stack.path for block in found)
    assert list(counts.values()) == [1 if family.repeats_blocks else LAYERS] * len(counts)
    assert all(model.base_model.get_submodule(block.path) is block.module for block in found)
    inside = {id(module) for block in found for module in block.module.modules()}
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and id(module) not in inside]
    if family.repeats_blocks:
        lists = lists[1:]  # groups of layers, of which there is one
    assert len(found) == sum(len(module) for module in lists)  # no stack is forgotten


@models
def test_parts_of_a_block_are_disjoint_and_whole(model_type: str, config: Any, task: Any) -> None:
    model, family = build(config, task), family_of(config)
    for block in blocks(model, family):
        parts = [*block.stack.matrices, *block.stack.norms, *block.stack.others]
        found = [f"{part}.{name}" for part in parts for name, _ in block.module.get_submodule(part).named_parameters()]
        left = [name for name, _ in block.module.named_parameters()]
        beside = {"layer.0.SelfAttention.relative_attention_bias.weight"} if block.path.endswith("block.0") else set()
        assert len(found) == len(set(found))
        assert set(left) - set(found) == beside
        assert set(found) <= set(left)


@models
def test_matrices_map_as_the_registry_says(model_type: str, config: Any, task: Any) -> None:
    model, family = build(config, task), family_of(config)
    neurons = 2 * WIDTH if family.name == "dinov2" else NEURONS  # its config has a ratio
    for block in blocks(model, family):
        module, ffn = block.module, block.stack.ffn
        if ffn is not None:
            for path in ffn.inputs:
                assert weight_shape(module, path, ffn.transposed) == (neurons * (1 + ffn.fused), WIDTH)
            assert weight_shape(module, ffn.output, ffn.transposed) == (WIDTH, neurons)
        for attention in block.stack.attention:
            assert all(weight_shape(module, path, attention.transposed)[1] == WIDTH for path in attention.inputs)
            assert weight_shape(module, attention.output, attention.transposed)[0] == WIDTH
            if attention.fused:
                width = WIDTH + 2 * WIDTH * getattr(config, "num_key_value_heads", 2) // 2  # queries, keys and values
                assert weight_shape(module, attention.query, attention.transposed) == (width, WIDTH)


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
    beside = {
        "logit_scale",
        "logit_bias",
        "visual_projection.weight",
        "text_projection.weight",
        "decoder.project_out.weight",
    }
    pooling = ("encoder.conv.", "vision_model.head.", "text_model.head.")  # DeBERTa's, beside block 0; SigLIP's
    assert {name for name in left if not name.startswith(pooling)} <= beside


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
        (lambda family: pattern(family, lambda stack: stack.ffn_matrices[-1:]), lambda stack: stack.ffn_matrices[-1:]),
    ],
    ids=["attention", "ffn", "all", "pattern"],
)
def test_peft_finds_these_parts_of_every_block_and_nothing_else(
    model_type: str, config: Any, task: Any, targets: Any, parts: Any
) -> None:
    model, family = build(config, task), family_of(config)
    if not all(parts(stack) for stack in family.stacks):
        return  # experts are no matrices, and asking for them is refused before
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


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (hf.PegasusConfig(), "the encoder-decoders of this version are T5 and BART"),
        (hf.WhisperConfig(), "they read audio"),
    ],
    ids=identify,
)
def test_an_architecture_that_cannot_be_tuned_is_refused_with_the_reason(config: Any, reason: str) -> None:
    with pytest.raises(RecipeError, match=rf"model\.path: models of type `{config.model_type}` are not .*{reason}"):
        family_of(config)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (hf.AlbertConfig(num_hidden_groups=2), "fedfm has no description"),
        (hf.PhiConfig(qk_layernorm=True), "fedfm has no description"),
        (hf.Qwen3MoeConfig(mlp_only_layers=[1]), "fedfm has no description"),
        (hf.BloomConfig(), "fedfm has no description"),
        (hf.AlbertConfig(), "share their weights"),
        (hf.MixtralConfig(), "are experts"),
        (hf.BertConfig(), None),
    ],
    ids=identify,
)
def test_what_a_proxy_lacks_is_named(config: Any, what: str | None) -> None:
    found = family_of(config).uncuttable
    assert found is None if what is None else found is not None and what in found


def inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a model of any family computes with."""
    image, text = torch.linspace(-1, 1, 3 * 64).view(1, 3, 8, 8), torch.tensor([[2, 7, 9, 3]])
    if model.main_input_name == "pixel_values":
        return {"pixel_values": image}
    if model.config.is_encoder_decoder:
        return {"input_ids": text, "decoder_input_ids": text}
    both = model.config.model_type in ("clip", "siglip")
    return {"input_ids": text, "pixel_values": image} if both else {"input_ids": text}


@models
def test_an_ffn_norm_gives_what_its_block_gives(model_type: str, config: Any, task: Any) -> None:
    model = task.from_config(config) if hasattr(task, "from_config") else task(config)
    given: dict[str, torch.Tensor] = {}
    found = blocks(model.eval(), family_of(config))
    for block in found:
        for part in ("", *block.stack.norms):
            name = f"{block.path}/{part}"
            block.module.get_submodule(part).register_forward_hook(
                lambda module, args, output, name=name: given.update(
                    {name: output[0] if isinstance(output, tuple) else output}
                )
            )
    with torch.no_grad():
        model(**inputs(model))
    assert given
    for block in found:
        last = [
            norm for norm in block.stack.norms if torch.equal(given[f"{block.path}/{norm}"], given[f"{block.path}/"])
        ]
        assert last == ([block.stack.ffn_norm] if block.stack.ffn_norm else [])


@pytest.mark.parametrize(
    ("config", "start"),
    [
        (hf.GPT2Config(n_embd=WIDTH, n_layer=1, n_head=2, **IDS), 2 * WIDTH),  # all queries, all keys, all values
        (hf.Phi3Config(**TEXT), 2 * WIDTH),
        (hf.GPTNeoXConfig(**TEXT), 2 * WIDTH // 2),  # the first head's query, key, value; then the second's
    ],
    ids=["gpt2", "phi3", "gpt_neox"],
)
def test_a_fused_attention_matrix_is_shared_out_as_its_docstring_says(config: Any, start: int) -> None:
    model = hf.AutoModel.from_config(config).eval()
    block, head = blocks(model, family_of(config))[0], slice(0, WIDTH // 2)
    attention = block.stack.attention[0]
    matrix, seen = block.module.get_submodule(attention.query), []
    block.module.get_submodule(attention.output).register_forward_hook(
        lambda module, args, output: seen.append(args[0])
    )
    with torch.no_grad():
        model(**inputs(model))
        rows = (slice(None), slice(start, start + WIDTH // 2))
        matrix.weight[rows if attention.transposed else rows[::-1]] = 0  # the first head's values
        model(**inputs(model))
    before, after = seen
    assert before[..., head].abs().min() > 0
    assert torch.equal(after[..., head], torch.zeros_like(after[..., head]))
    assert torch.equal(after[..., WIDTH // 2 :], before[..., WIDTH // 2 :])
