"""Rows are encoded once, in batches, and then read from disk."""

from __future__ import annotations

import pytest
from datasets import Features, Value
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace

from fedfm.data.encoding import Encode, encoded
from fedfm.errors import DataError

FEATURES = Features({"twice": Value("int64")})


def test_rows_are_encoded_in_batches_and_only_once() -> None:
    batches: list[list[int]] = []

    def prepare() -> Encode:
        def encode(rows: list[int]) -> dict[str, list[int]]:
            batches.append(rows)
            return {"twice": [2 * row for row in rows for _ in range(row)]}  # row r gives r rows

        return encode

    tables = [encoded("a-key", 4, prepare, FEATURES, batch_size=3) for _ in range(2)]
    assert [table["twice"][:] for table in tables] == [[2, 4, 4, 6, 6, 6]] * 2
    assert batches == [[0, 1, 2], [3]]


def test_a_tokenizer_whose_native_code_panics_is_a_data_error() -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.normalizer = Replace(Regex("(a|aa)+$"), "c")

    def prepare() -> Encode:
        return lambda rows: {"twice": [len(tokenizer.encode("a" * 60 + "b")) for _ in rows]}

    with pytest.raises(DataError, match="the model's tokenizer failed on a text"):
        encoded("panics", 1, prepare, FEATURES, batch_size=1)


def test_who_asks_to_stop_is_heard() -> None:
    def prepare() -> Encode:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoded("stops", 1, prepare, FEATURES, batch_size=1)
