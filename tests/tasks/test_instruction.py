"""Instruction tuning against plain transformers: the same loss with the same masks, packed or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from fedfm.data.examples import Examples
from fedfm.data.settings import DataSettings
from fedfm.data.sources import read_source
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import Full, Lora, Prompt, TuneSettings
from fedfm.tasks import TASKS
from fedfm.tasks.isolation import refuse_leaks
from fedfm.tasks.language_modeling import IGNORED

SHARED = Path(__file__).parents[3] / "shared" / "data"
ROWS = [
    {"instruction": "Name a colour", "output": "Red, or blue."},
    {"messages": [{"role": role, "content": word} for word in ("one", "two") for role in ("user", "assistant")]},
    {"prompt": "Say no", "response": "No"},
]


def rows_file(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def encoded(kind: str, path: Path, backbone: Backbone, **settings: Any) -> Examples:
    task, data = TASKS[kind](), DataSettings(train=str(path), **{"max_length": 64, **settings})
    source = read_source(str(path), "train", where="data.train", columns=task.columns(data))
    return task.encode(task.prepare(source, data), data, backbone.processor, None)


def load(kind: str, path: str) -> Backbone:
    return load_backbone(ModelSettings(path=path), TASKS[kind].auto_class, seed=0)


@torch.no_grad()
def mean_loss(kind: str, backbone: Backbone, examples: Examples) -> float:
    task = TASKS[kind]()
    batch = task.collate(backbone.processor, seed=0)(examples.take(range(len(examples))))
    totals, counts = task.losses(task.outputs(backbone.model, batch), batch)
    assert torch.equal(counts, task.predictions(batch))
    return float(totals.double().sum() / counts.sum())


@torch.no_grad()
def theirs(model: Any, tokenizer: Any, talks: Sequence[list[dict[str, str]]]) -> float:
    """Mean loss a token of the assistant's turns: transformers' own loss, one conversation after the other."""
    total, tokens = 0.0, 0
    for talk in talks:
        ids = tokenizer.apply_chat_template(talk, return_dict=True)["input_ids"]
        labels = [IGNORED] * len(ids)
        for number, turn in enumerate(talk):
            if turn["role"] == "assistant":  # from the prompt that asks for it to its end token
                asked = tokenizer.apply_chat_template(talk[:number], add_generation_prompt=True, return_dict=True)
                start, end = len(asked["input_ids"]), ids.index(tokenizer.eos_token_id, len(asked["input_ids"])) + 1
                labels[start:end] = ids[start:end]
        count = sum(label != IGNORED for label in labels)
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total, tokens = total + loss.item() * count, tokens + count
    return total / tokens


def messages(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, str]]]:
    """The rows as transformers expects them."""
    talks = []
    for row in rows:
        said = {
            "prompt": row.get("prompt") or row.get("instruction"),
            "response": row.get("response") or row.get("output"),
        }
        if row.get("input"):
            said["prompt"] += "\n" + row["input"]
        pair = [{"role": "user", "content": said["prompt"]}, {"role": "assistant", "content": said["response"]}]
        talks.append(row.get("messages") or pair)
    return talks


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_the_loss_is_that_of_transformers_on_responses(name: str, tmp_path: Path) -> None:
    backbone, data = load("instruct", f"builtin:{name}"), DataSettings(train="x")
    ours = mean_loss("instruct", backbone, encoded("instruct", rows_file(tmp_path), backbone))
    tokenizer = TASKS["instruct"]().delivered(backbone.processor, data)
    assert backbone.processor.chat_template is None  # type: ignore[union-attr]
    assert ours == pytest.approx(theirs(backbone.model, tokenizer, messages(ROWS)), rel=1e-5)


@pytest.mark.skipif(not (SHARED / "alpaca_5k").is_dir(), reason=f"{SHARED / 'alpaca_5k'} is not here")
def test_the_loss_of_a_pretrained_model_on_alpaca(tmp_path: Path) -> None:
    folder, path = SHARED / "models" / "stories260k", tmp_path / "rows.json"
    source = read_source(str(SHARED / "alpaca_5k" / "test.jsonl.gz"), "test", where="data.test")
    rows = [row for row in source.table.select(range(60)) if len(row["output"]) < 200 and row["output"].strip()][:24]
    path.write_text(json.dumps(rows))
    backbone = load("instruct", str(folder))
    examples = encoded("instruct", path, backbone, max_length=512)
    assert len(examples) == len(rows)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TASKS["instruct"]().delivered(backbone.processor, DataSettings(train="x")).chat_template
    plain = AutoModelForCausalLM.from_pretrained(folder)
    # white space around a response is not learnt
    talks = messages([{**row, "output": row["output"].strip()} for row in rows])
    ours = mean_loss("instruct", backbone, examples)
    assert ours == pytest.approx(theirs(plain, tokenizer, talks), rel=1e-5)


@pytest.mark.parametrize("name", ["tiny-t5", "tiny-bart"])
def test_the_loss_of_encoder_decoders_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    backbone, path = load("seq2seq", f"builtin:{name}"), tmp_path / "rows.json"
    rows = [ROWS[0], ROWS[2]]
    path.write_text(json.dumps(rows))
    ours = mean_loss("seq2seq", backbone, encoded("seq2seq", path, backbone))
    plain = AutoModelForSeq2SeqLM.from_config(backbone.model.config)
    plain.load_state_dict(backbone.model.state_dict())
    total, tokens = 0.0, 0
    for talk in messages(rows):
        asked, given = (backbone.processor(turn["content"], return_tensors="pt")["input_ids"] for turn in talk)
        with torch.no_grad():
            loss = plain.eval()(input_ids=asked, labels=given).loss
        total, tokens = total + loss.item() * given.numel(), tokens + given.numel()
    assert ours == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral", "tiny-qwen3", "tiny-gpt2", "tiny-gemma"])
def test_packed_conversations_have_the_loss_of_conversations_alone(name: str, tmp_path: Path) -> None:
    backbone, path = load("instruct", f"builtin:{name}"), rows_file(tmp_path)
    shared = encoded("instruct", path, backbone, pack=True, max_length=128)
    assert len(shared) < len(ROWS)
    apart = mean_loss("instruct", backbone, encoded("instruct", path, backbone))
    assert mean_loss("instruct", backbone, shared) == pytest.approx(apart, rel=1e-5)
    refuse_leaks(TASKS["instruct"](), Lora().attach(backbone, task_type="CAUSAL_LM", seed=0), backbone.processor, name)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "tune"), [("tiny-opt", Full()), ("tiny-llama", Prompt(num_virtual_tokens=3))])
def test_packing_is_refused_where_conversations_would_attend_to_each_other(name: str, tune: TuneSettings) -> None:
    backbone = load("instruct", f"builtin:{name}")
    tunable = tune.attach(backbone, task_type="CAUSAL_LM", seed=0)
    data = DataSettings(train="x", pack=True)
    with pytest.raises(RecipeError, match=r"data\.pack: conversations .* attend to each other in a model"):
        TASKS["instruct"]().check_model(tunable, backbone.processor, "a model", data)


def test_the_first_token_of_a_packed_conversation_is_not_predicted_by_the_one_before() -> None:
    backbone = load("instruct", "builtin:tiny-llama")
    row = {"input_ids": [9, 8, 7, 6], "learned": [1, 1, 1, 1], "position_ids": [0, 1, 0, 1]}
    batch = TASKS["instruct"]().collate(backbone.processor, seed=0)([row])
    assert batch["labels"].tolist() == [[IGNORED, 8, IGNORED, 6]]
    assert "attention_mask" not in batch


def test_an_encoder_decoder_is_sent_to_its_own_task() -> None:
    from fedfm.models.backbones import load_processor

    with pytest.raises(RecipeError, match=r"task\.kind: .*`task\.kind: seq2seq` for an encoder-decoder"):
        load_processor(ModelSettings(path="builtin:tiny-t5"), "text", causal=True)
