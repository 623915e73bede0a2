"""Public data: every piece is read, batches follow their key, and errors name its own recipe key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedfm.data.settings import PublicSettings
from fedfm.errors import RecipeError
from fedfm.models.backbones import load_processor
from fedfm.models.settings import ModelSettings
from fedfm.tasks.public import PublicData, read_public

TOKENIZER = load_processor(ModelSettings(path="builtin:tiny-bert"), "text")


def write(path: Path, texts: list[str], column: str = "text") -> str:
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    return str(path)


def public(data: str, **settings: Any) -> PublicData:
    return read_public(PublicSettings(data=data, **settings), TOKENIZER, max_length=8, seed=0)


def test_documents_are_cut_into_pieces_and_nothing_is_lost(tmp_path: Path) -> None:
    texts = ["abcdefghijkl", "mn"]
    found = public(write(tmp_path / "texts.jsonl", texts))
    pieces = [
        TOKENIZER.decode(row["input_ids"], skip_special_tokens=True) for row in found.examples.take(range(len(found)))
    ]
    assert "".join(pieces) == "".join(texts)
    assert all(len(row["input_ids"]) <= 8 for row in found.examples.take(range(len(found))))


def test_samples_are_of_every_length(tmp_path: Path) -> None:
    settings = PublicSettings(data=write(tmp_path / "texts.jsonl", ["x" * 3000]), limit=None)
    found = read_public(settings, TOKENIZER, max_length=34, seed=0)  # pieces of 32, of which most are cut in two
    lengths = found.examples.lengths - 2
    assert set(lengths) >= set(range(4, 28))
    assert 0.2 < (lengths <= 8).mean() < 0.35
    assert 0.2 < (lengths >= 20).mean() < 0.5
    assert lengths.sum() == 3000


def test_pieces_become_pairs_where_the_task_has_pairs(tmp_path: Path) -> None:
    texts = ["abcdefghijklmnopqrst", "uvwx", "yz"]  # one character, one token; the last is too short to be two texts
    settings = PublicSettings(data=write(tmp_path / "texts.jsonl", texts), limit=None)
    found = read_public(settings, TOKENIZER, max_length=11, seed=0, pairs=True)
    rows = found.examples.take(range(len(found)))
    assert all(len(row["input_ids"]) <= 11 for row in rows)
    separated = [TOKENIZER.decode(row["input_ids"]).split(TOKENIZER.sep_token)[:2] for row in rows]
    first, second = (
        [text.replace(TOKENIZER.cls_token, "").strip() for text in side] for side in zip(*separated, strict=True)
    )
    assert all(first)
    assert all(second)
    joined = "".join(a + b for a, b in zip(first, second, strict=True))
    assert joined == "abcdefghijklmn" + "qrstuvwx"  # what a cut leaves of less than four tokens is left out
    for row in rows:
        middle = row["input_ids"].index(TOKENIZER.sep_token_id) + 1
        assert list(row["token_type_ids"]) == [0] * middle + [1] * (len(row["input_ids"]) - middle)


def test_texts_too_short_for_pairs_are_refused(tmp_path: Path) -> None:
    settings = PublicSettings(data=write(tmp_path / "texts.jsonl", ["ab"]))
    with pytest.raises(RecipeError, match="no text of at least 4 tokens"):
        read_public(settings, TOKENIZER, max_length=11, seed=0, pairs=True)


def test_batches_are_padded_with_a_mask_and_have_no_labels(tmp_path: Path) -> None:
    (batch,) = public(write(tmp_path / "texts.jsonl", ["a", "abcd"])).fixed(4, 9, seed=0, purpose="x")
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert sorted(batch["attention_mask"].sum(1).tolist()) == [3, 6]
    assert "labels" not in batch


def test_the_limit_is_a_keyed_choice(tmp_path: Path) -> None:
    data = write(tmp_path / "texts.jsonl", [f"text {i}" for i in range(30)])
    chosen = public(data, limit=10)
    assert len(chosen) == 10
    assert np.array_equal(chosen.indices, public(data, limit=10).indices)
    other = read_public(PublicSettings(data=data, limit=10), TOKENIZER, max_length=8, seed=1)
    assert not np.array_equal(chosen.indices, other.indices)
    assert set(chosen.indices) <= set(public(data, limit=None).indices)


def test_an_amount_in_tokens_is_the_start_of_a_shuffle_with_little_padding(tmp_path: Path) -> None:
    data = public(write(tmp_path / "texts.jsonl", ["x" * (1 + number % 6) for number in range(60)]), limit=50)

    def drawn(tokens: int, **key: Any) -> list[dict[str, torch.Tensor]]:
        return data.enough(tokens, 4, **{"seed": 0, "purpose": "a", "round": 1, **key})

    def texts(batches: list[dict[str, torch.Tensor]]) -> list[int]:
        return sorted(int(length) for batch in batches for length in batch["attention_mask"].sum(1))

    few, more, all_of_them = drawn(40), drawn(80), drawn(10_000)
    for batches, tokens in ((few, 40), (more, 80)):
        assert tokens <= sum(texts(batches)) < tokens + 8
        assert all(len(batch["input_ids"]) == 4 for batch in batches[:-1])
    assert not set(texts(few)) - set(texts(more))
    assert sum(len(batch["input_ids"]) for batch in all_of_them) == 50
    assert sum(batch["attention_mask"].numel() for batch in all_of_them) <= sum(texts(all_of_them)) + 10
    longest = max(texts(all_of_them))
    assert data.passes_for(10_000) == -(-sum(texts(all_of_them)) // longest)
    assert data.passes_for(40) == -(-40 // longest)
    assert [batch["input_ids"].tolist() for batch in few] == [batch["input_ids"].tolist() for batch in drawn(40)]
    assert [b["input_ids"].tolist() for b in few] != [b["input_ids"].tolist() for b in drawn(40, round=2)]


def test_each_purpose_and_round_has_its_own_order(tmp_path: Path) -> None:
    data = public(write(tmp_path / "texts.jsonl", [f"{i:05d}" for i in range(20)]))

    def order(**key: Any) -> list[list[int]]:
        batches = data.batches(5, **{"steps": 4, "seed": 0, "purpose": "a", "round": 1, **key})
        return [row.tolist() for batch in batches for row in batch["input_ids"]]

    assert order() == order()
    assert sorted(map(tuple, order())) == sorted(map(tuple, order(round=2)))  # one pass, every piece once
    for other in ({"round": 2}, {"purpose": "b"}, {"seed": 1}):
        assert order() != order(**other)


def test_images_come_as_the_model_takes_them() -> None:
    settings = PublicSettings(data="builtin:digits", limit=6)
    processor = load_processor(ModelSettings(path="builtin:tiny-vit"), "image")
    data = read_public(settings, processor, max_length=8, seed=0)
    (batch,) = data.fixed(6, 1, seed=0, purpose="x")
    assert batch.keys() == {"pixel_values"}
    assert batch["pixel_values"].shape == (6, 3, 8, 8)
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["pixel_values"].abs().max() <= 1


@pytest.mark.parametrize(
    ("settings", "where", "said"),
    [
        ({"data": "nowhere.jsonl"}, "public.data", "no such file"),
        ({"data": "builtin:pidoc"}, "public.data", "builtin:pydoc"),
        ({"data": "builtin:pydoc", "text": "body"}, "public.text", "body"),
        ({"data": "builtin:digits"}, "public.text", "text"),
    ],
)
def test_what_is_missing_is_said_by_its_own_key(settings: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        public(**settings)
    assert [problem.where for problem in caught.value.problems] == [where]
