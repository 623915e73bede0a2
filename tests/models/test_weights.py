"""Which files of a folder are the weights; other files have no effect, or are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from fedfm.errors import DataError, FedfmError, RecipeError
from fedfm.models import builtin
from fedfm.models.backbones import Backbone, load_backbone, load_processor
from fedfm.models.settings import ModelSettings

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 133\n"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    builtin.write_random_model("tiny-bert", tmp_path)
    return tmp_path


def load(folder: Path, auto_class: Any = AutoModelForSequenceClassification) -> Backbone:
    return load_backbone(ModelSettings(path=str(folder)), auto_class, seed=0, labels=["a", "b"])


def shard(folder: Path) -> dict[str, str]:
    """Splits a folder's weights into shards; returns its index's map."""
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="9KB")
    index: dict[str, str] = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return index


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def adapter_beside(folder: Path) -> None:
    adapted = get_peft_model(
        AutoModel.from_pretrained(folder), LoraConfig(target_modules=["query"], init_lora_weights=False)
    )
    adapted.save_pretrained(str(folder))


def training_shard_beside(folder: Path) -> None:
    """The name that transformers gives to shards of distributed training, which it would load instead."""
    other = {name: torch.full_like(weight, 0.5) for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(other, folder / "shard-00001-model-00001-of-00001.safetensors", metadata={"format": "pt"})


def stale_variant_beside(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "model.fp16.safetensors")


@pytest.mark.parametrize("beside", [training_shard_beside, stale_variant_beside])
def test_other_files_beside_the_weights_change_nothing(beside: Callable[[Path], None], bert: Path) -> None:
    before = load(bert)
    beside(bert)
    after = load(bert)
    assert after.identity == before.identity
    assert all(torch.equal(a, b) for a, b in zip(after.model.parameters(), before.model.parameters(), strict=True))


def test_an_adapter_beside_a_model_is_refused(bert: Path) -> None:
    """transformers loads the model with it, under the model's own name."""
    adapter_beside(bert)
    said = r"model\.path: .* has an adapter \(adapter_config\.json\).* move the adapter's files to another folder"
    for loading in (lambda: load(bert), lambda: load_processor(ModelSettings(path=str(bert)), "text")):
        with pytest.raises(RecipeError, match=said):
            loading()


def test_an_adapter_alone_is_refused_with_what_to_do(bert: Path) -> None:
    adapter_beside(bert)
    (bert / "config.json").unlink()
    with pytest.raises(
        RecipeError, match=r"model\.path: .* is an adapter .*, not a model; merge it into its base model"
    ):
        load(bert)


def test_shards_are_read_as_one_file_is(bert: Path) -> None:
    whole = load(bert)
    assert len(set(shard(bert).values())) > 1
    assert load(bert).identity == whole.identity


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "..\\model.safetensors"]
)
def test_an_index_that_lists_a_file_outside_the_folder_is_refused(name: str, bert: Path) -> None:
    weight_map = shard(bert)
    (bert / "sub").mkdir()
    shutil.copy(bert / next(iter(weight_map.values())), bert / "sub" / "model.safetensors")
    write_index(bert, {**weight_map, "x": name})
    with pytest.raises(DataError, match="is not a file of its own folder"):
        load(bert)


@pytest.mark.parametrize("weight_map", [None, [], "x", {"a": 3}, {"a": None}])
def test_an_index_that_is_no_index_is_a_data_error(weight_map: Any, bert: Path) -> None:
    shard(bert)
    write_index(bert, weight_map)
    with pytest.raises(FedfmError, match=r"not an index of weights|has no model\.safetensors"):
        load(bert)


def test_a_shard_that_is_missing_is_named(bert: Path) -> None:
    gone = sorted(set(shard(bert).values()))[1]
    (bert / gone).unlink()
    with pytest.raises(DataError, match=rf"lacks {gone}, which model\.safetensors\.index\.json lists"):
        load(bert)


def test_a_tensor_in_two_shards_is_refused(bert: Path) -> None:
    weight_map = shard(bert)
    first, second = sorted(set(weight_map.values()))[:2]
    save_file(load_file(bert / first) | load_file(bert / second), bert / second, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"two weight files of .* contain the tensor"):
        load(bert)


def test_whole_weights_beside_an_index_of_others_are_refused(bert: Path) -> None:
    """Which of them is old, only the user knows; transformers takes the whole ones."""
    whole = (bert / "model.safetensors").read_bytes()
    shard(bert)
    (bert / "model.safetensors").write_bytes(whole)
    with pytest.raises(RecipeError, match=r"has both model\.safetensors and .* remove the outdated one"):
        load(bert)
    write_index(bert, dict.fromkeys(load_file(bert / "model.safetensors"), "model.safetensors"))
    assert load(bert).identity.weights


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named_with_the_remedy(file: str, bert: Path) -> None:
    (bert / file).write_text(POINTER)
    with pytest.raises(DataError, match=rf"Git LFS pointers instead of its files \({file}\): run `git lfs install"):
        load_processor(ModelSettings(path=str(bert)), "text")


def test_a_pointer_in_place_of_a_file_that_is_not_read_does_no_harm(bert: Path) -> None:
    (bert / "pytorch_model.bin").write_text(POINTER)
    assert load(bert).identity.weights


def test_s01_s02_pickled_weights_come_with_the_command_that_converts_them(bert: Path) -> None:
    AutoModelForMaskedLM.from_pretrained(bert).save_pretrained(bert)
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with pytest.raises(RecipeError) as caught:
        load(bert)
    said = str(caught.value)
    assert "has only pickled weights (pytorch_model.bin), which can run code and are never opened" in said
    assert f"transformers.BertForMaskedLM.from_pretrained('{bert}')" in said


@pytest.mark.parametrize("file", ["tf_model.h5", "flax_model.msgpack", "model.gguf", "weights.safetensors"])
def test_weights_of_another_kind_are_named(file: str, bert: Path) -> None:
    (bert / "model.safetensors").rename(bert / file)
    with pytest.raises(RecipeError, match=rf"has no model\.safetensors, only {file}; save it with"):
        load(bert)


@pytest.mark.parametrize(
    "setting",
    [
        {"transformers_weights": "other.safetensors"},
        {"configuration_files": ["config.4.0.0.json"]},
        {"fusion_config": {"x": 1}},
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
        {"text_config": {"attn_implementation": "someone/kernel@v1:function"}},
        {"_experts_implementation": "someone/kernel"},
    ],
    ids=str,
)
def test_a_config_that_refers_to_other_files_or_code_is_refused(setting: dict[str, Any], bert: Path) -> None:
    file = bert / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | setting))
    with pytest.raises(RecipeError, match=r"model\.path: config\.json of .* refers to other files or other code"):
        load(bert)


@pytest.mark.parametrize("place", ["quantization_config", "text_config"])
def test_a_quantised_part_is_refused(place: str, bert: Path) -> None:
    setting = {"quant_method": "gptq"} if place == "quantization_config" else {"quantization_config": {"bits": 4}}
    file = bert / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {place: setting}))
    with pytest.raises(RecipeError, match="is quantised; use the model with float weights"):
        load(bert)


def test_generation_settings_stay_with_the_model(tmp_path: Path) -> None:
    builtin.write_random_model("tiny-llama", tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 7], "temperature": 0.3}))
    found = load_backbone(ModelSettings(path=str(tmp_path)), AutoModelForCausalLM, seed=0)
    assert found.model.generation_config.eos_token_id == [3, 7]
