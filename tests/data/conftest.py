"""Sources and tokenizers small enough to check by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fedfm.data.sources import Source

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "zero one two three four five six seven eight nine ten".split()
CLS, SEP, ZERO = 2, 3, 5
"""Ids: ``zero`` is 5, ``one`` 6, … ``ten`` 15."""


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that only this test uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDFM_CACHE", str(folder))
    return folder


def make_tokenizer(*, special: bool = True, room: int = 512) -> PreTrainedTokenizerFast:
    """One id a word; with ``special``, [CLS] text [SEP] (pair [SEP]) as BERT has it, else bare as GPT-2 has it."""
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
        )
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if special else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=room,
        model_input_names=inputs,
    )


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def bare_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(special=False)


@pytest.fixture
def make_source() -> Callable[..., Source]:
    """A source in memory: ``make_source(text=[…], label=[…])``."""

    def make(features: datasets.Features | None = None, **columns: list[object]) -> Source:
        table = datasets.Dataset.from_dict(columns, features=features)
        return Source(table, digest=repr(columns), name="made.jsonl")

    return make
