"""Token ids: truncated for classification, cut into pieces for language modelling, tokenised once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

from fedfm.data.documents import encode_documents
from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source, read_source
from fedfm.data.text import encode_text
from fedfm.data.tokens import tokenizer_digest
from fedfm.errors import DataError, RecipeError
from fedfm.recipe import load_recipe
from fedfm.server.runs.planning import plan
from tests.small import small_recipe

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
CLS, SEP, ZERO = 2, 3, 5  # so one is 6, … ten is 15


def make_tokenizer(*, special: bool = True) -> PreTrainedTokenizerFast:
    """One id a word; with ``special``, [CLS] text [SEP] (pair [SEP]) as BERT has it, else bare as GPT-2 has it."""
    vocabulary = {word: place for place, word in enumerate(SPECIAL + WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, SPECIAL[1]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    inputs = ["input_ids", "attention_mask"]
    if special:
        inputs.append("token_type_ids")
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
        )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, model_input_names=inputs, **names)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def bare_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(special=False)


def forbid(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(type(tokenizer), "__call__", refuse)


def test_one_text_column(make_source: Callable[..., Source], tokenizer: PreTrainedTokenizerFast) -> None:
    source = make_source(text=["zero one", "two", "three four five"], kind=["x", "y", "x"], who=[7, 8, 7])
    labels = LabelMap.from_source(source, "kind")
    examples = encode_text(source, ["text"], tokenizer, 4, label="kind", label_map=labels, client="who")
    assert len(examples) == 3
    assert examples.lengths.tolist() == [4, 3, 4]
    assert examples.lengths.dtype == np.int32
    assert examples.labels is not None
    assert examples.labels.tolist() == [0, 1, 0]
    assert examples.clients is not None
    assert examples.clients.tolist() == ["7", "8", "7"]
    assert examples.take([2, 1]) == [
        {"input_ids": [CLS, ZERO + 3, ZERO + 4, SEP], "token_type_ids": [0, 0, 0, 0], "labels": 0},
        {"input_ids": [CLS, ZERO + 2, SEP], "token_type_ids": [0, 0, 0], "labels": 1},
    ]


def test_b07_an_example_of_a_million_tokens_is_cut_and_counted(
    make_source: Callable[..., Source], tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = encode_text(make_source(text=["one " * 1_000_000, "two"]), ["text"], tokenizer, 8)
    assert examples.lengths.tolist() == [8, 3]
    assert examples.cut is not None
    assert examples.cut.tolist() == [1_000_000 - 6, 0]


def test_b07_a_plan_counts_the_texts_that_are_cut(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    assert plan(load_recipe(recipe))["data"]["cut"] == {"train": 0, "test": 0}
    recipe["data"]["max_length"] = 12
    assert plan(load_recipe(recipe))["data"]["cut"] == {"train": 60, "test": 30}


def test_a_pair_of_columns_is_what_the_tokenizer_makes_of_it(
    make_source: Callable[..., Source], tokenizer: PreTrainedTokenizerFast
) -> None:
    source = make_source(first=["zero one two three", "four"], second=["five", "six seven"])
    rows = encode_text(source, ["first", "second"], tokenizer, 6).take([0, 1])
    assert rows == [
        {"input_ids": [CLS, 5, 6, SEP, 10, SEP], "token_type_ids": [0, 0, 0, 0, 1, 1]},
        {"input_ids": [CLS, 9, SEP, 11, 12, SEP], "token_type_ids": [0, 0, 0, 1, 1, 1]},
    ]


def test_collators_of_transformers_take_the_rows(
    make_source: Callable[..., Source], tokenizer: PreTrainedTokenizerFast
) -> None:
    source = make_source(text=["zero one", "two"], kind=[0, 1])
    examples = encode_text(source, ["text"], tokenizer, 8, label="kind", label_map=LabelMap(("0", "1")))
    batch = DataCollatorWithPadding(tokenizer)(examples.take(np.array([0, 1])))
    assert batch["input_ids"].tolist() == [[CLS, 5, 6, SEP], [CLS, 7, SEP, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [0, 1]


def test_a_second_start_tokenises_nothing_and_labels_may_change(
    make_source: Callable[..., Source],
    tokenizer: PreTrainedTokenizerFast,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = make_source(text=["zero", "one"], kind=["x", "y"], other=["p", "q"])
    before = encode_text(source, ["text"], tokenizer, 8).take([0, 1])
    forbid(tokenizer, monkeypatch)
    again = encode_text(source, ["text"], tokenizer, 8, label="other", label_map=LabelMap(("q", "p")))
    assert [{**row, "labels": label} for row, label in zip(before, (1, 0), strict=True)] == again.take([0, 1])


@pytest.mark.parametrize("change", ["source", "column", "length", "vocabulary", "special", "documents"])
def test_what_changes_the_ids_is_tokenised_anew(
    make_source: Callable[..., Source],
    tokenizer: PreTrainedTokenizerFast,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    source = make_source(text=["zero", "one"], title=["two", "three"])
    encode_text(source, ["text"], tokenizer, 8)
    changed: dict[str, Callable[[], object]] = {
        "source": lambda: encode_text(source.select([0]), ["text"], tokenizer, 8),
        "column": lambda: encode_text(source, ["title"], tokenizer, 8),
        "length": lambda: encode_text(source, ["text"], tokenizer, 9),
        "vocabulary": lambda: tokenizer.add_tokens("eleven") and encode_text(source, ["text"], tokenizer, 8),
        "special": lambda: setattr(tokenizer, "eos_token", "ten") or encode_text(source, ["text"], tokenizer, 8),
        "documents": lambda: encode_documents(source, "text", tokenizer, 8),
    }
    forbid(tokenizer, monkeypatch)
    with pytest.raises(AssertionError, match="tokenised again"):
        changed[change]()


def test_the_digest_ignores_what_calls_leave_behind() -> None:
    """Every call sets padding and truncation in the tokenizer itself; files of models come with some set, too."""
    tokenizer = make_tokenizer()
    before = tokenizer_digest(tokenizer)
    tokenizer(["zero one"], truncation=True, max_length=3, padding="max_length")
    assert tokenizer_digest(tokenizer) == before
    assert tokenizer_digest(make_tokenizer(special=False)) != before


def test_padding_and_truncation_stored_with_a_tokenizer_do_not_show(
    make_source: Callable[..., Source], tokenizer: PreTrainedTokenizerFast, own_cache: Path
) -> None:
    """The file of all-MiniLM-L6-v2 pads every text to 128 tokens and cuts it there."""
    tokenizer.backend_tokenizer.enable_padding(length=7)
    tokenizer.backend_tokenizer.enable_truncation(3)
    examples = encode_text(make_source(text=["zero one two three"]), ["text"], tokenizer, 20)
    assert examples.lengths.tolist() == [6]


def test_a_document_becomes_pieces_with_its_client(
    make_source: Callable[..., Source], tokenizer: PreTrainedTokenizerFast
) -> None:
    source = make_source(text=["zero one two three four", "five", "six seven"], who=["a", "b", "c"])
    examples = encode_documents(source, "text", tokenizer, 4, client="who")
    assert [row["input_ids"] for row in examples.take(range(5))] == [
        [CLS, 5, 6, SEP],
        [CLS, 7, 8, SEP],
        [CLS, 9, SEP],
        [CLS, 10, SEP],
        [CLS, 11, 12, SEP],
    ]
    assert examples.labels is None
    assert examples.clients is not None
    assert examples.clients.tolist() == ["a", "a", "a", "b", "c"]
    assert examples.lengths.tolist() == [4, 4, 3, 3, 4]
    assert "document" not in examples.take([0])[0]


END = SEP  # these tokenizers have no other


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("zero one", 8, [[5, 6, END]]),
        ("zero one two", 3, [[5, 6], [7, END]]),  # the cut moves, so that the end is predicted from a word
        ("zero one two three", 4, [[5, 6, 7], [8, END]]),
        ("zero one two three", 3, [[5, 6, 7], [8, END]]),
        ("zero one two three four", 3, [[5, 6, 7], [8, 9, END]]),
        ("zero", 2, [[5, END]]),
    ],
)
def test_a_document_ends_with_the_end_token(
    make_source: Callable[..., Source],
    bare_tokenizer: PreTrainedTokenizerFast,
    text: str,
    length: int,
    expected: list[list[int]],
) -> None:
    bare_tokenizer.eos_token = "[SEP]"
    examples = encode_documents(make_source(text=[text]), "text", bare_tokenizer, length, end_token=True)
    assert [row["input_ids"] for row in examples.take(range(len(examples)))] == expected


def test_no_piece_within_a_document_ends_it(
    make_source: Callable[..., Source], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Although the tokenizer puts its end token behind every text."""
    tokenizer.eos_token = "[SEP]"
    source = make_source(text=["zero one two three four", "five", "six seven"], who=["a", "b", "c"])
    examples = encode_documents(source, "text", tokenizer, 4, end_token=True, client="who")
    rows = examples.take(range(len(examples)))
    assert [row["input_ids"] for row in rows] == [
        [CLS, 5, 6, 7],
        [CLS, 8, 9, END],
        [CLS, 10, END],
        [CLS, 11, 12, END],
    ]
    assert [row["token_type_ids"] for row in rows] == [[0] * 4, [0] * 4, [0] * 3, [0] * 4]
    assert examples.clients is not None
    assert examples.clients.tolist() == ["a", "a", "b", "c"]


def test_a_tokenizer_without_an_end_token_is_refused_with_the_remedy(
    make_source: Callable[..., Source], tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(RecipeError, match=r"data\.end_token: .* set `data\.end_token: false`"):
        encode_documents(make_source(text=["zero one"]), "text", tokenizer, 8, end_token=True)


def test_a_text_without_a_token_is_named(make_source: Callable[..., Source]) -> None:
    tokenizer = make_tokenizer(special=False)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    source = make_source(text=["zero", "\u200b"], kind=[0, 1])
    with pytest.raises(DataError, match=r"made\.jsonl: the model has no token for the text in row 2"):
        encode_text(source, ["text"], tokenizer, 8)


def test_pieces_with_nothing_to_predict_are_left_out(
    make_source: Callable[..., Source], bare_tokenizer: PreTrainedTokenizerFast
) -> None:
    source = make_source(text=["zero one two", "three", "four five"], who=["a", "b", "c"])
    examples = encode_documents(source, "text", bare_tokenizer, 2, client="who")
    assert [row["input_ids"] for row in examples.take([0, 1])] == [[5, 6], [9, 10]]
    assert examples.clients is not None
    assert examples.clients.tolist() == ["a", "c"]
    with pytest.raises(RecipeError, match=r"data\.text: .* has no text of two or more tokens"):
        encode_documents(make_source(text=["zero", "one"]), "text", bare_tokenizer, 2)


@settings(max_examples=40)
@given(
    documents=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), min_size=1, max_size=8),
    length=st.integers(3, 12),
)
def test_no_token_of_a_document_is_lost(documents: list[list[str]], length: int) -> None:
    texts = [" ".join(words) for words in documents]
    source = Source(Dataset.from_dict({"text": texts, "who": [str(n) for n in range(len(texts))]}), repr(texts), "x")
    examples = encode_documents(source, "text", make_tokenizer(), length, client="who")
    joined: dict[str, list[int]] = {}
    assert examples.clients is not None
    for who, row in zip(examples.clients, examples.take(range(len(examples))), strict=True):
        ids = row["input_ids"]
        assert (ids[0], ids[-1], len(ids) <= length) == (CLS, SEP, True)
        joined.setdefault(who, []).extend(ids[1:-1])
    assert joined == {str(n): [ZERO + WORDS.index(word) for word in words] for n, words in enumerate(documents)}


@pytest.mark.parametrize(
    "encode", [lambda *a: encode_text(a[0], ["text"], *a[1:]), lambda *a: encode_documents(a[0], "text", *a[1:])]
)
def test_lengths_that_cannot_be(make_source: Callable[..., Source], encode: Callable[..., Any]) -> None:
    source = make_source(text=["zero"])
    with pytest.raises(RecipeError, match=r"data\.max_length: 513 is more than the 512 tokens that the model accepts"):
        encode(source, make_tokenizer(), 513)
    with pytest.raises(RecipeError, match=r"data\.max_length: 2 tokens leave no room for text: 2 of them are special"):
        encode(source, make_tokenizer(), 2)


def test_columns_are_checked_before_tokenising(
    make_source: Callable[..., Source], tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(RecipeError, match=r"data\.text: no column `body` in made\.jsonl; columns: text"):
        encode_text(make_source(text=["a"]), ["body"], tokenizer, 8)
    with pytest.raises(DataError, match=r"data\.text: column `second` is blank in 1 of 1 rows"):
        encode_text(make_source(first=["a"], second=[" "]), ["first", "second"], tokenizer, 8)


def test_a_second_start_from_a_file_neither_parses_nor_tokenises(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label,who\n" + "".join(f"{' '.join(WORDS)},{n % 3},{n % 50}\n" for n in range(3000)))

    def start() -> list[dict[str, Any]]:
        source = read_source(str(path), "train", where="data.train")
        labels = LabelMap.from_source(source, "label")
        examples = encode_text(source, ["text"], tokenizer, 128, label="label", label_map=labels, client="who")
        return examples.take([0, 1, 2999])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("parsed again")

    first = start()
    forbid(tokenizer, monkeypatch)
    monkeypatch.setattr(Dataset, "from_csv", refuse)
    assert start() == first
