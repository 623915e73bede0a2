"""Two backbones of one digest compute the same; what does not change the function does not change the digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from fedfm.models import builtin
from fedfm.models.backbones import load_backbone
from fedfm.models.identity import ModelIdentity, identify
from fedfm.models.settings import ModelSettings
from tests.models.cases import CASES, TASKS, Case, load


def of(folder: Path, task: str = "text") -> ModelIdentity:
    chosen = TASKS[task]
    return load_backbone(ModelSettings(path=str(folder)), chosen.auto_class, seed=0, labels=chosen.labels).identity


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    builtin.write_random_model("tiny-bert", tmp_path)
    return tmp_path


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_the_digest_of_a_model_does_not_depend_on_task_or_seed(name: str) -> None:
    found = [load(known, task, seed).identity for known, task in CASES for seed in (0, 1) if known == name]
    assert len({identity.digest for identity in found}) == 1


@pytest.mark.parametrize("case", [("tiny-bert", "text"), ("tiny-t5", "text"), ("tiny-clip", "image")], ids="-".join)
def test_every_weight_of_the_checkpoint_counts(case: Case) -> None:
    backbone = load(*case)
    before, digests = backbone.identity, {backbone.identity.digest}
    for name, weight in backbone.model.named_parameters():
        kept = weight.data.clone()
        weight.data.view(-1)[0] += 1
        now = identify(backbone.model, backbone.processor, backbone.family, backbone.new_head)
        expected = [] if name in backbone.new_head else ["weights of its head" if "pooler" in name else "weights"]
        assert before.differences(now) == expected, name
        digests.add(now.digest)
        weight.data.copy_(kept)
    ours = [name for name, _ in backbone.model.named_parameters() if name not in backbone.new_head]
    assert len(digests) == 1 + sum("pooler" not in name for name in ours)


def test_an_output_matrix_that_is_not_tied_belongs_to_the_head(tmp_path: Path) -> None:
    model = load("tiny-llama", "causal").model
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(tmp_path)
    load("tiny-llama", "causal").processor.save_pretrained(tmp_path)
    before = of(tmp_path, "causal")
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert before.differences(of(tmp_path, "causal")) == ["weights of its head"]


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "relu"},
        {"layer_norm_eps": 1e-3},
        {"num_attention_heads": 4},
        {"hidden_dropout_prob": 0.5},
        {"a_setting_of_a_later_version": True},
    ],
    ids=str,
)
def test_a_setting_that_changes_the_function_is_seen(change: dict[str, Any], bert: Path) -> None:
    before = of(bert)
    edit(bert / "config.json", **change)
    assert before.differences(of(bert)) == ["settings in config.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"_name_or_path": "someone/else"},
        {"transformers_version": "4.0.0", "torch_dtype": "float32"},
        {"id2label": {"0": "x", "1": "y"}, "label2id": {"x": 0, "y": 1}, "problem_type": "multi_label_classification"},
        {"architectures": ["BertForMaskedLM"]},
        {"initializer_range": 0.1, "add_cross_attention": False},
    ],
    ids=str,
)
def test_a_setting_that_does_not_change_it_is_not(change: dict[str, Any], bert: Path) -> None:
    before = of(bert)
    edit(bert / "config.json", **change)
    assert of(bert) == before


def test_a_model_that_is_saved_again_is_the_same(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = tmp_path_factory.mktemp("again")
    loaded = load_backbone(ModelSettings(path=str(bert)), TASKS["text"].auto_class, seed=0, labels=TASKS["text"].labels)
    loaded.model.base_model.save_pretrained(again, max_shard_size="9KB")
    AutoTokenizer.from_pretrained(bert).save_pretrained(again)
    assert of(again) == loaded.identity


def test_a_tokenizer_that_gives_other_ids_is_seen(bert: Path) -> None:
    before, file = of(bert), bert / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[10:12]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content))
    assert before.differences(of(bert)) == ["tokenizer or image processor"]


def test_another_padding_token_is_seen(bert: Path) -> None:
    before = of(bert)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(bert)
    assert "tokenizer or image processor" in before.differences(of(bert))


def test_an_image_processor_that_gives_other_pixels_is_seen(tmp_path: Path) -> None:
    builtin.write_random_model("tiny-vit", tmp_path)
    before = of(tmp_path, "image")
    edit(tmp_path / "preprocessor_config.json", image_mean=[0.4, 0.5, 0.5])
    assert before.differences(of(tmp_path, "image")) == ["tokenizer or image processor"]


def test_different_models_have_different_digests() -> None:
    found = {load(name, task).identity.digest for name, task in CASES}
    assert len(found) == len({name for name, _ in CASES})
