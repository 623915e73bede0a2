"""Whole runs on conversations: what is learnt, what is said, and what others read of the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from fedfm import load_recipe, run
from fedfm.server import plan
from fedfm.server.runs.inference import evaluate
from tests.card import by_the_card
from tests.small import small_recipe

ANSWERS = {"red": "warm", "blue": "cold", "orange": "warm", "green": "cold"}


def write_talks(path: Path, count: int, *, start: int = 0) -> None:
    """Alpaca's form, as one array; a response is blank."""
    colours = list(ANSWERS)
    rows: list[dict[str, Any]] = [
        {"instruction": f"Is {colours[i % 4]} warm?", "input": f"case {i}", "output": ANSWERS[colours[i % 4]]}
        for i in range(start, start + count)
    ]
    rows[0]["output"] = ""
    path.write_text(json.dumps(rows))


def talking_recipe(folder: Path, kind: str, model: str, **data: Any) -> dict[str, Any]:
    write_talks(folder / "train.json", 60)
    write_talks(folder / "test.json", 24, start=100)
    files = {"train": str(folder / "train.json"), "test": str(folder / "test.json"), "max_length": 64}
    return small_recipe(
        folder,
        model={"path": f"builtin:{model}"},
        task={"kind": kind},
        data={**files, **data},
        federation={"clients": 4, "per_round": 4, "rounds": 3},
        local={"batch_size": 5, "learning_rate": 0.03},
    )


@pytest.mark.parametrize(
    ("kind", "model", "data"),
    [
        ("instruct", "tiny-llama", {}),
        ("instruct", "tiny-llama", {"pack": True, "max_length": 128}),
        ("seq2seq", "tiny-t5", {}),
        ("seq2seq", "tiny-bart", {}),
    ],
    ids=["decoder", "packed", "t5", "bart"],
)
def test_it_learns_responses_and_others_load_it(
    kind: str, model: str, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(talking_recipe(tmp_path, kind, model, **data))
    planned = plan(recipe)
    assert planned["training"].startswith("4 clients at a time")
    blank = "examples have no response that is learnt and are left out (first: row 1)"
    assert [text for text in planned["warnings"] if text.endswith(blank)]
    finished = run(recipe)
    summary = finished.summary
    assert summary["final"]["perplexity"] < 0.8 * summary["initial"]["perplexity"]
    assert summary["reloaded"]["agrees"]
    again = evaluate(finished.path, str(tmp_path / "test.json"))
    assert again["metrics"]["perplexity"] == pytest.approx(summary["final"]["perplexity"], rel=1e-5)
    names = by_the_card(finished.folder.adapter, monkeypatch)
    assert isinstance(names["respond"]("Is red warm?", most=4), str)
    template = AutoTokenizer.from_pretrained(finished.folder.adapter).chat_template
    assert (template is not None) == (kind == "instruct")


def test_packed_conversations_train_alike_in_one_pass_and_alone(tmp_path: Path) -> None:
    """In a pass the frozen first block is computed once an example; conversations must stay apart there, too."""
    values = talking_recipe(tmp_path, "instruct", "tiny-llama", pack=True, max_length=128)
    losses = {}
    for stack in ("auto", "off"):
        values |= {"name": stack, "runtime": {"kind": "local", "stack": stack}}
        values["tune"] = {"kind": "lora", "target_modules": r".*layers\.1\.self_attn\.[qkvo]_proj"}
        recipe = load_recipe(values)
        assert ("the first 1 blocks once an example" in plan(recipe)["training"]) == (stack == "auto")
        finished = run(recipe)
        losses[stack] = finished.metrics.loss.dropna().tolist()
    assert losses["auto"] == pytest.approx(losses["off"], rel=1e-4)
