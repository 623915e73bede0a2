"""Pairs of texts that are read apart: a question and the passage that answers it, each with its own token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Features, Value
from transformers import PreTrainedTokenizerBase

from fedfm.data.columns import clients_of, text_column
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import Examples
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.sources import Source
from fedfm.data.tokens import TEXTS_PER_BATCH, cut_off, token_features, token_key, tokenized
from fedfm.errors import DataError

PASSAGE = "passage_"
"""Prefix of the second text's columns."""


def encode_text_pairs(
    source: Source,
    columns: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    client: str | None = None,
) -> Examples:
    """One example per row: two texts, each truncated to ``max_length`` tokens, not padded.

    The first text has the tokenizer's columns, the second the same with the prefix `PASSAGE`. The length of an example
    is that of its longer text, to which a batch is padded.

    Args:
        source: the rows.
        columns: of the first and of the second text.
        tokenizer: a fast tokenizer.
        max_length: tokens of a text, including special tokens.
        client: column that names the client, or None; validation and test data may lack it.

    Raises:
        RecipeError: a column is missing or has the wrong type, or the model accepts fewer tokens.
        DataError: a text has no token.
    """
    key = token_key("pairs apart", source, columns, tokenizer, max_length)
    own = token_features(tokenizer)
    second_text = {f"{PASSAGE}{name}": feature for name, feature in own.items()}
    features = Features({**own, **second_text, "cut": Value("int32")})

    def prepare() -> Encode:
        first, second = (text_column(source, column, "data.text") for column in columns)
        reader = plain_tokenizer(tokenizer)

        def encode(rows: list[int]) -> dict[str, Any]:
            question = tokenized(reader, [[first[row] for row in rows]], max_length)
            passage = tokenized(reader, [[second[row] for row in rows]], max_length)
            cut = [sum(both) for both in zip(cut_off(question), cut_off(passage), strict=True)]
            both = {name: question[name] for name in own} | {f"{PASSAGE}{name}": passage[name] for name in own}
            return {**both, "cut": cut}

        return encode

    clients = clients_of(source, client)
    table = encoded(key, len(source), prepare, features, batch_size=TEXTS_PER_BATCH)
    sides = [_counts(table[name]) for name in ("input_ids", f"{PASSAGE}input_ids")]
    if len(empty := np.flatnonzero(np.minimum(*sides) == 0)):
        raise DataError(f"{source.name}: the model has no token for a text in row {source.row_number(empty[0])}")
    cut = np.asarray(table["cut"], dtype=np.int32)
    return Examples(table.remove_columns("cut"), np.maximum(*sides), clients=clients, cut=cut)


def _counts(ids: Sequence[Sequence[int]]) -> np.ndarray:
    return np.fromiter((len(row) for row in ids), dtype=np.int32, count=len(ids))
