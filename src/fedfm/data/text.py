"""Text examples as token ids: one example per row, truncated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Value
from transformers import PreTrainedTokenizerBase

from fedfm.data.columns import clients_of, text_column
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap, labels_of
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.sources import Source
from fedfm.data.tokens import TEXTS_PER_BATCH, cut_off, token_counts, token_features, token_key, tokenized
from fedfm.errors import DataError


def encode_text(
    source: Source,
    columns: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    label: str | None = None,
    label_map: LabelMap | None = None,
    client: str | None = None,
) -> Examples:
    """One example per row, truncated to ``max_length`` tokens, not padded.

    Args:
        source: the rows.
        columns: one text column, or two for pairs.
        tokenizer: a fast tokenizer.
        max_length: tokens, including special tokens.
        label: column of the class, encoded by ``label_map``; None for unlabelled examples.
        label_map: the classes; required with ``label``.
        client: column that names the client, or None; validation and test data may lack it.

    Raises:
        RecipeError: a column is missing or has the wrong type, or the model accepts fewer tokens.
        DataError: a text has no token.
    """
    key = token_key("text", source, columns, tokenizer, max_length, counts_cuts=True)

    def prepare() -> Encode:
        texts, reader = [text_column(source, column, "data.text") for column in columns], plain_tokenizer(tokenizer)

        def encode(rows: list[int]) -> dict[str, Any]:
            found = tokenized(reader, [[column[row] for row in rows] for column in texts], max_length)
            return {**found, "cut": cut_off(found)}

        return encode

    labels, clients = labels_of(source, label, label_map), clients_of(source, client)
    features = token_features(tokenizer, cut=Value("int32"))
    table = encoded(key, len(source), prepare, features, batch_size=TEXTS_PER_BATCH)
    lengths, cut = token_counts(table), np.asarray(table["cut"], dtype=np.int32)
    if len(empty := np.flatnonzero(lengths == 0)):
        raise DataError(f"{source.name}: the model has no token for the text in row {source.row_number(empty[0])}")
    return Examples(table.remove_columns("cut"), lengths, labels, clients, cut)


def encode_texts(sides: Sequence[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
    """Texts in memory as unlabelled examples, which are not cached.

    Args:
        sides: one list of N texts, or two lists for pairs.
        tokenizer: a fast tokenizer.
        max_length: tokens, including special tokens; fewer where the model accepts fewer.

    Raises:
        DataError: the model has no token for a text.
    """
    features = token_features(tokenizer)
    columns = tokenized(plain_tokenizer(tokenizer), sides, min(max_length, tokenizer.model_max_length))
    table = Dataset.from_dict({name: columns[name] for name in features}, features=features)
    lengths = token_counts(table)
    if len(empty := np.flatnonzero(lengths == 0)):
        raise DataError(f"the model has no token for text {empty[0] + 1} of {len(lengths)}")
    return Examples(table, lengths)
