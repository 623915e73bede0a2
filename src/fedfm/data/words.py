"""Texts given as words, with a tag for each word: the label of a word is at its first token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import List, Value
from transformers import PreTrainedTokenizerBase

from fedfm.data.columns import clients_of
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import IGNORED, Examples
from fedfm.data.labels import LabelMap
from fedfm.data.lists import list_column
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.sources import Source
from fedfm.data.tokens import TEXTS_PER_BATCH, token_counts, token_features, token_key, tokenized
from fedfm.errors import DataError


def encode_words(
    source: Source,
    column: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    label: str | None = None,
    label_map: LabelMap | None = None,
    client: str | None = None,
) -> Examples:
    """One example per row, truncated to ``max_length`` tokens. The model reads the words with a space between them.

    ``labels`` of the table has an entry per token: at the first token of a word its tag, or without tags its number
    in the row; `IGNORED` at all others. A word without a token, because it was cut off, is not predicted.

    Args:
        source: the rows.
        column: the lists of words.
        tokenizer: a fast tokenizer.
        max_length: tokens, including special tokens.
        label: column of the lists of tags, encoded by ``label_map``; None for examples without tags.
        label_map: the tags; required with ``label``.
        client: column that names the client, or None; validation and test data may lack it.

    Raises:
        RecipeError: as for `fedfm.data.text.encode_text`.
        DataError: a row has no word, has other numbers of words and tags, or a tag that is not known.
    """
    words = list_column(source, column, "data.text")
    if empty := [row for row, found in enumerate(words) if not any(map(str.strip, found))]:
        raise DataError(f"{source.name} has no words in {source.place(empty[0])}", where="data.text")
    tags = None if label is None or label_map is None else tags_of(source, label, label_map, words)
    known = None if label_map is None else [label, list(label_map.names), sorted(label_map.aliases.items())]
    key = token_key("words", source, [column], tokenizer, max_length, tags=known)

    def prepare() -> Encode:
        reader = plain_tokenizer(tokenizer)

        def encode(rows: list[int]) -> dict[str, list[Any]]:
            texts = [" ".join(words[row]) for row in rows]
            found = dict(tokenized(reader, [texts], max_length, return_offsets_mapping=True))
            found["labels"] = [
                _labels(first_tokens(words[row], offsets), None if tags is None else tags[row], len(offsets))
                for row, offsets in zip(rows, found.pop("offset_mapping"), strict=True)
            ]
            return found

        return encode

    features = token_features(tokenizer, labels=List(Value("int32")))
    table = encoded(key, len(source), prepare, features, batch_size=TEXTS_PER_BATCH)
    predicted = _predicted(table.with_format("arrow")[:]["labels"].combine_chunks())
    return Examples(
        table, token_counts(table), clients=clients_of(source, client), notes=_left_out(source, words, predicted)
    )


def tags_of(source: Source, column: str, label_map: LabelMap, words: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """The tags of the words of each row, int64.

    Raises:
        DataError: a row has other numbers of words and tags, or a tag that is not known.
    """
    tags = label_map.encode_lists(source, column)
    for row, (found, own) in enumerate(zip(words, tags, strict=True)):
        if len(found) != len(own):
            raise DataError(
                f"{source.name} has {len(found)} words and {len(own)} tags in {source.place(row)}: each word needs one "
                "tag",
                where="data.label",
            )
    return tags


def first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The first token of each word, -1 for a word that has none.

    Args:
        words: joined by single spaces.
        offsets: start and end of each token in the joined text; special tokens are empty.
    """
    places, start, token = [], 0, 0
    for word in words:
        end = start + len(word)
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1
        has_one = token < len(offsets) and offsets[token][0] < end
        places.append(token if has_one else -1)
        token += has_one
        start = end + 1
    return places


def _labels(places: Sequence[int], tags: np.ndarray | None, length: int) -> list[int]:
    labels = [IGNORED] * length
    for number, place in enumerate(places):
        if place >= 0:
            labels[place] = number if tags is None else int(tags[number])
    return labels


def _predicted(labels: Any) -> int:
    """How many positions are predicted."""
    return int((labels.flatten().to_numpy() != IGNORED).sum())


def _left_out(source: Source, words: Sequence[Sequence[str]], predicted: int) -> tuple[str, ...]:
    """A sentence about words that are not predicted."""
    total = sum(map(len, words))
    if predicted == total:
        return ()
    return (
        f"{total - predicted:,} of the {total:,} words are not predicted: their rows are longer "
        "than data.max_length, or the model has no token for them",
    )
