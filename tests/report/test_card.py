"""The card: the Hub reads its header, its code runs, its claims are those of the summary."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from fedfm.errors import StorageError
from fedfm.report.card import Base, write_card

RECIPE: dict[str, Any] = {
    "name": "pydoc-lora",
    "model": {"path": "sentence-transformers/all-MiniLM-L6-v2", "revision": None},
    "task": {"kind": "text-classification"},
    "data": {"text": ("text",), "max_length": 128},
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
    path = write_card(folder, base=Base(base), summary=SUMMARY | changes, recipe=RECIPE, kind=kind)
    assert path == folder / "README.md"
    assert [entry.name for entry in folder.iterdir()] == ["README.md"]
    return ModelCard.load(path)


def test_scores_on_known_examples_are_said_to_be_so(tmp_path: Path) -> None:
    shared = {"split": "test", "other": "train", "examples": 4, "total": 9}
    within = {"split": "train", "other": "train", "examples": 2, "total": 30}
    text = card(tmp_path, repeats=[shared, within]).text
    assert "4 of 9 test examples are also in the training data: scores on them do not measure" in text
    assert "2 of 30" not in text


def test_personal_parts_the_protocol_and_who_measured_are_said(tmp_path: Path) -> None:
    protocol = {"kind": "gossip", "consensus_distance": 0.012}
    text = card(tmp_path, personal=["classifier.*"], protocol=protocol, final_by="clients").text
    assert "the shared part, with the mean of the clients in the personal places: `classifier.*`." in text
    assert "| protocol | gossip (consensus distance 0.0120) |" in text
    assert "Mean over clients, weighted by the number of their held-out examples:" in text
    assert "On the test set" not in text


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
    assert "\n\n\n" not in re.sub(r"```python.*?```", "code", text, flags=re.DOTALL)
    assert "with differential" not in text


def test_the_recipe_is_there_and_can_be_read(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", card(tmp_path).text, re.DOTALL)
    assert block is not None
    assert yaml.safe_load(block[1]) == RECIPE | {"data": {"text": ["text"], "max_length": 128}}


def test_nothing_says_where_files_lie(tmp_path: Path) -> None:
    recipe = RECIPE | {
        "output": "/home/ann/runs",
        "run_dir": "/home/ann/runs/7",
        "model": {"path": "/home/ann/models/bert", "revision": None},
        "data": {
            "train": "/home/ann/a.jsonl",
            "validation": 0.1,
            "test": "../ann/b.csv",
            "text": ["text"],
            "max_length": 9,
        },
    }
    write_card(tmp_path, base=Base("/home/ann/models/bert"), summary=SUMMARY, recipe=recipe, kind="adapter")
    text = (tmp_path / "README.md").read_text()
    assert "ann" not in text
    assert "with `lora` on `bert`" in text
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    shown = yaml.safe_load(block[1])
    sources = {key: shown["data"][key] for key in ("train", "validation", "test")}
    assert sources == {"train": "a.jsonl", "validation": 0.1, "test": "b.csv"}
    assert shown["model"]["path"] == "bert"
    hub = RECIPE | {"data": {"train": "hf:ann/set", "test": "builtin:pydoc", "max_length": 9}}
    write_card(tmp_path, base=Base("a/b"), summary=SUMMARY, recipe=hub, kind="adapter")
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


def test_code_names_the_base_where_it_is(tmp_path: Path) -> None:
    code = card(tmp_path).text
    assert 'base_path = "sentence-transformers/all-MiniLM-L6-v2"' in code
    assert "ignore_mismatched_sizes" not in code
    write_card(
        tmp_path, base=Base("a/b", "c0ffee", "pack", new_head=True), summary=SUMMARY, recipe=RECIPE, kind="adapter"
    )
    text = (tmp_path / "README.md").read_text()
    for line in ('find_spec("pack")', 'else "a/b"', 'revision="c0ffee"', "ignore_mismatched_sizes=True"):
        assert line in text
    assert 'base_path = f"{path}/base"' in card(tmp_path, base="builtin:tiny-bert").text
    assert "base_model_name_or_path" in card(tmp_path, base="/srv/models/bert").text
    assert "base_path" not in card(tmp_path, kind="model", base="builtin:tiny-bert").text


def test_code_runs_from_where_the_run_was_started_and_names_no_absolute_path(tmp_path: Path) -> None:
    for place, path in (
        ({"output": "runs", "run_dir": None}, "runs/pydoc-lora/adapter"),
        ({"output": "runs", "run_dir": "elsewhere/7"}, "elsewhere/7/adapter"),
        ({"output": "/home/ann/runs", "run_dir": None}, "."),
    ):
        write_card(tmp_path, base=Base("a/b"), summary=SUMMARY, recipe=RECIPE | place, kind="adapter")
        assert f'path = "{path}"' in (tmp_path / "README.md").read_text()


def test_no_label_ends_the_code_or_says_more_than_a_label(tmp_path: Path) -> None:
    labels = ["```", '"); import os; os.abort(); ("', "two\nlines", "\x1b[2Jclear", "ünï"]
    write_card(tmp_path, base=Base("a/b"), summary=SUMMARY | {"labels": labels}, recipe=RECIPE, kind="adapter")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    assert code is not None
    (assigned,) = [line for line in code[1].splitlines() if line.startswith("labels = ")]
    assert ast.literal_eval(assigned.removeprefix("labels = ")) == labels
    assert assigned.isprintable()


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*README\.md"):
        write_card(tmp_path / "absent", base=Base("a/b"), summary=SUMMARY, recipe=RECIPE, kind="model")
