"""The card: its header is read by the hub, its code runs, its claims are the summary's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

from fedfm.errors import StorageError
from fedfm.records.card import write_card

RECIPE: dict[str, Any] = {
    "name": "pydoc-lora",
    "model": {"path": "sentence-transformers/all-MiniLM-L6-v2", "revision": None},
    "task": {"kind": "text-classification"},
    "data": {"text": ("text",)},
    "federation": {"per_round": 10},
    "tune": {"kind": "lora", "r": 8},
    "algorithm": {"name": "fedavg"},
}
SUMMARY: dict[str, Any] = {
    "name": "pydoc-lora",
    "rounds": 20,
    "labels": ["files", "numbers", "text"],
    "final": {"loss": 0.4, "accuracy": 0.8714},
    "initial": {"loss": 0.7, "accuracy": 0.5021},
    "parameters": {"backbone": 1000, "trainable": 25},
    "bytes": {"down": 2_000_000, "up": 1_000_000, "first_download": 4000},
    "clients": {"total": 100, "failed": 1, "refused": 2},
    "privacy": None,
}


def card(folder: Path, kind: Any = "adapter", base: str = RECIPE["model"]["path"], **changes: Any) -> ModelCard:
    path = write_card(folder, base_model=base, summary=SUMMARY | changes, recipe=RECIPE, kind=kind)
    assert path == folder / "README.md"
    assert [entry.name for entry in folder.iterdir()] == ["README.md"]
    return ModelCard.load(path)


def test_the_header_says_what_it_is_an_adapter_of(tmp_path: Path) -> None:
    data = card(tmp_path).data.to_dict()
    assert data == {
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "tags": ["federated-learning", "fedfm", "fedavg", "lora"],
    }
    whole = card(tmp_path, kind="model").data.to_dict()
    assert (whole["library_name"], whole["base_model_relation"]) == ("transformers", "finetune")


@pytest.mark.parametrize("base", ["builtin:tiny-bert", "/srv/models/bert", "./bert", "a/b/c"])
def test_a_base_that_others_cannot_find_is_not_in_the_header(tmp_path: Path, base: str) -> None:
    assert "base_model" not in card(tmp_path, base=base).data.to_dict()


def test_a_local_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "bert").mkdir(parents=True)
    (tmp_path / "adapter").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in card(tmp_path / "adapter", base="models/bert").data.to_dict()


def test_the_facts_are_those_of_the_run(tmp_path: Path) -> None:
    text = card(tmp_path).text
    for line in (
        "FedAvg with `lora` on `sentence-transformers/all-MiniLM-L6-v2`",
        "| clients | 100 |",
        "| clients a round | 10 |",
        "| rounds | 20 |",
        "| updates refused | 2 |",
        "| tuned parameters | 25, 2.50 % of the backbone’s |",
        "| sent to clients | 2.00 MB |",
        "| accuracy | 50.2 % | 87.1 % |",
        "No differential privacy (ε = ∞)",
        "`files`, `numbers`, `text`",
    ):
        assert line in text
    assert "\n\n\n" not in text
    assert "with differential" not in text


def test_the_recipe_is_there_and_can_be_read(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", card(tmp_path).text, re.DOTALL)
    assert block is not None
    assert yaml.safe_load(block[1]) == RECIPE | {"data": {"text": ["text"]}}


def test_nothing_says_where_files_lie(tmp_path: Path) -> None:
    recipe = RECIPE | {
        "output": "/home/ann/runs",
        "run_dir": "/home/ann/runs/7",
        "model": {"path": "/home/ann/models/bert", "revision": None},
        "data": {"train": "/home/ann/a.jsonl", "validation": 0.1, "test": "../ann/b.csv", "text": ["text"]},
    }
    write_card(tmp_path, base_model="/home/ann/models/bert", summary=SUMMARY, recipe=recipe, kind="adapter")
    text = (tmp_path / "README.md").read_text()
    assert "ann" not in text
    assert "with `lora` on `bert`" in text
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    shown = yaml.safe_load(block[1])
    assert shown["data"] == {"train": "a.jsonl", "validation": 0.1, "test": "b.csv", "text": ["text"]}
    assert shown["model"]["path"] == "bert"
    hub = RECIPE | {"data": {"train": "hf:ann/set", "test": "builtin:pydoc"}}
    write_card(tmp_path, base_model="a/b", summary=SUMMARY, recipe=hub, kind="adapter")
    text = (tmp_path / "README.md").read_text()
    assert "hf:ann/set" in text
    assert "builtin:pydoc" in text


def test_differential_privacy_is_stated_when_there_is_some(tmp_path: Path) -> None:
    text = card(tmp_path, privacy={"epsilon": 7.943, "delta": 1e-5, "unit": "client"}).text
    assert "(ε, δ) = (7.94, 1e-05) differential privacy, per client." in text
    assert "∞" not in text


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    text = card(tmp_path, final={}, initial={}, labels=None, parameters=None, bytes=None, clients=None).text
    assert "Not evaluated." in text
    assert "num_labels" not in text


def test_a_backbone_of_fedfms_own_is_not_promised_to_load(tmp_path: Path) -> None:
    text = card(tmp_path, base="builtin:tiny-bert").text
    assert "from_pretrained" not in text
    assert "fedfm export RUN --merge" in text
    assert "from_pretrained(path)" in card(tmp_path, kind="model", base="builtin:tiny-bert").text


def test_the_code_on_the_card_loads_the_adapter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    base = BertForSequenceClassification(config)
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)).eval()
    model.save_pretrained(tmp_path / "adapter")
    write_card(tmp_path / "adapter", base_model=str(tmp_path / "base"), summary=SUMMARY, recipe=RECIPE, kind="adapter")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "adapter" / "README.md").read_text(), re.DOTALL)
    assert code is not None
    lines = code[1].replace("PATH OR ID OF THIS FOLDER", str(tmp_path / "adapter"))
    lines = lines.replace("PATH OF base", str(tmp_path / "base"))
    names: dict[str, Any] = {}
    exec(lines[: lines.index("tokenizer =")], names)  # noqa: S102 - what the card tells its reader to do
    ids = torch.tensor([[1, 5, 9, 2]])
    loaded = names["model"](input_ids=ids).logits
    torch.testing.assert_close(loaded, model(input_ids=ids).logits, rtol=1e-5, atol=1e-7)
    with model.disable_adapter():
        assert not torch.allclose(loaded, model(input_ids=ids).logits, rtol=1e-5, atol=1e-7)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*README\.md"):
        write_card(tmp_path / "absent", base_model="a/b", summary=SUMMARY, recipe=RECIPE, kind="model")
