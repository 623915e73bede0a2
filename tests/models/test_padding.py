"""One padding id for tokenizer, model and files, whatever the loaded files contain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from fedfm.errors import RecipeError
from fedfm.models.backbones import load_backbone, load_processor
from fedfm.models.builtin import write_random_model
from fedfm.models.byte_tokenizer import END_ID, MASK_ID, PAD_ID, byte_tokenizer
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import Full

LETTER = 70
"""The id of an ordinary token."""


def write(folder: Path, builtin: str, *, config: int | None, tokenizer: str | None) -> ModelSettings:
    """A builtin whose config and tokenizer name these padding tokens."""
    write_random_model(builtin, folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": config}))
    made = AutoTokenizer.from_pretrained(folder)
    made.pad_token = tokenizer
    made.save_pretrained(folder)
    return ModelSettings(path=str(folder))


@pytest.mark.parametrize(
    ("builtin", "config", "tokenizer", "expected"),
    [
        ("tiny-gpt2", LETTER, "<pad>", PAD_ID),  # a text ends with any letter
        ("tiny-gpt2", END_ID, "<pad>", PAD_ID),
        ("tiny-gpt2", None, "<pad>", PAD_ID),
        ("tiny-gpt2", PAD_ID, None, PAD_ID),
        ("tiny-llama", -1, None, END_ID),  # as Llama's first configs have it
        ("tiny-llama", LETTER, None, END_ID),
        ("tiny-llama", 9999, "</s>", END_ID),
        ("tiny-t5", MASK_ID, "<pad>", PAD_ID),
        ("tiny-bert", LETTER, "<pad>", PAD_ID),
        ("tiny-roberta", PAD_ID, "<mask>", PAD_ID),  # its positions count from there
    ],
)
def test_one_id_decided_once(
    tmp_path: Path, builtin: str, config: int | None, tokenizer: str | None, expected: int
) -> None:
    settings = write(tmp_path / "model", builtin, config=config, tokenizer=tokenizer)
    backbone = load_backbone(settings, AutoModelForSequenceClassification, seed=0, labels=["a", "b"])
    assert load_processor(settings, "text").pad_token_id == backbone.processor.pad_token_id == expected  # type: ignore[union-attr]
    assert backbone.model.config.pad_token_id == expected
    Full().attach(backbone, task_type="SEQ_CLS", seed=0).save(tmp_path / "saved", backbone.processor)
    assert AutoConfig.from_pretrained(tmp_path / "saved").pad_token_id == expected
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").pad_token_id == expected


def test_an_encoder_decoder_classifies_at_the_tokenizers_end(tmp_path: Path) -> None:
    settings = write(tmp_path, "tiny-t5", config=PAD_ID, tokenizer="<pad>")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": LETTER}))
    backbone = load_backbone(settings, AutoModelForSequenceClassification, seed=0, labels=["a", "b"])
    assert backbone.model.config.eos_token_id == END_ID
    byte_tokenizer("start-only", 64).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"model\.path: T5.* reads a text up to its end token, which its tokenizer"):
        load_backbone(settings, AutoModelForSequenceClassification, seed=0, labels=["a", "b"])


def test_generation_pads_with_it_as_well(tmp_path: Path) -> None:
    settings = write(tmp_path / "model", "tiny-gpt2", config=LETTER, tokenizer="<pad>")
    backbone = load_backbone(settings, AutoModelForCausalLM, seed=0)
    assert backbone.model.generation_config is not None
    assert backbone.model.generation_config.pad_token_id == PAD_ID


def test_a_token_that_pads_and_is_read_is_trained(tmp_path: Path) -> None:
    """Torch gives the padding index of an embedding no gradient."""
    settings = write(tmp_path / "model", "tiny-llama", config=END_ID, tokenizer=None)
    backbone = load_backbone(settings, AutoModelForCausalLM, seed=0)
    tunable = Full().attach(backbone, task_type="CAUSAL_LM", seed=0)
    inputs = backbone.processor.pad([{"input_ids": [LETTER, END_ID, LETTER, LETTER]}], return_tensors="pt")  # type: ignore[union-attr]
    embedding = tunable.base_model.model.embed_tokens(inputs["input_ids"])
    embedding.sum().backward()
    gradient = tunable.base_model.model.embed_tokens.weight.grad
    assert gradient[END_ID].tolist() == [1.0] * gradient.shape[1]


def test_positions_that_count_from_an_ordinary_token_are_refused(tmp_path: Path) -> None:
    settings = write(tmp_path / "model", "tiny-roberta", config=LETTER, tokenizer="<pad>")
    with pytest.raises(RecipeError, match=r"model\.path: .* padding id 70, which is not a special"):
        load_processor(settings, "text")
