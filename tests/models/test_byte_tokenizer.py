from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fedfm.models.byte_tokenizer import END_ID, SPECIALS, START_ID, VOCABULARY_SIZE, Template, byte_tokenizer

TEMPLATES: list[Template] = ["pair-types", "pair", "start-only"]
A, B = 5 + 32, 5 + 33  # bytes 0x41 and 0x42: printable ones come first in the alphabet, from "!" on


@pytest.mark.parametrize(
    ("template", "single", "pair", "types"),
    [
        ("pair-types", [2, A, 3], [2, A, 3, B, 3], [0, 0, 0, 1, 1]),
        ("pair", [2, A, 3], [2, A, 3, 3, B, 3], None),
        ("start-only", [2, A], [2, A, B], None),
    ],
)
def test_special_tokens_frame_texts(
    template: Template, single: list[int], pair: list[int], types: list[int] | None
) -> None:
    tokenizer = byte_tokenizer(template, 16)
    assert tokenizer("A")["input_ids"] == single
    encoded = tokenizer("A", "B")
    assert encoded["input_ids"] == pair
    assert encoded.get("token_type_ids") == types


@given(text=st.text(max_size=40))
def test_every_text_is_its_bytes_and_comes_back(text: str) -> None:
    tokenizer = byte_tokenizer("start-only", 4096)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not any(special in text for special in SPECIALS):
        assert len(tokens) == len(text.encode())
        assert min(tokens, default=5) >= len(SPECIALS)
    assert max(tokens, default=0) < VOCABULARY_SIZE
    assert tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == text


def test_it_pads_on_the_right_and_cuts_with_its_specials_kept() -> None:
    tokenizer = byte_tokenizer("pair", 16)
    padded = tokenizer(["A", "AAA"], padding=True)
    assert padded["input_ids"][0] == [START_ID, A, END_ID, 0, 0]
    assert padded["attention_mask"][0] == [1, 1, 1, 0, 0]
    assert tokenizer("A" * 50, truncation=True)["input_ids"] == [START_ID, *[A] * 14, END_ID]


@pytest.mark.parametrize("template", TEMPLATES)
def test_it_survives_a_round_trip_through_files(template: Template, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(template, 77)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert again("né", "\n").data == tokenizer("né", "\n").data
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert (again.model_max_length, again.padding_side, len(again)) == (77, "right", VOCABULARY_SIZE)
