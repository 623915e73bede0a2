"""Pairs of responses as examples of a decoder: the chosen and the rejected conversation in one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import List, Value
from transformers import PreTrainedTokenizerBase

from fedfm.data.conversations.encoding import CUT, LEARNED, ROW, kept, refuse_unwritable
from fedfm.data.conversations.packing import POSITIONS
from fedfm.data.conversations.preferences import PAIR, parsed_pair
from fedfm.data.conversations.templates import Writer, template_of
from fedfm.data.conversations.turns import Turn
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import Examples
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.data.tokens import TEXTS_PER_BATCH, token_features, token_key

_LEAST = "least"
"""Column: learnt tokens of the response that has fewer of them."""


def encode_pairs(source: Source, data: DataSettings, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """One sequence for each pair, with `LEARNED` and `POSITIONS`, which begin at 0 for each of the two conversations.

    Each conversation is truncated to ``data.max_length`` tokens. Pairs of which a response is cut off whole are left
    out, and counted in the notes.

    Args:
        source: from `fedfm.data.conversations.preferences.with_preferences`.
        data: says how conversations are written and truncated.
        tokenizer: a fast tokenizer.

    Raises:
        RecipeError: the tokenizer lacks what the settings ask for; see `template_of` and `token_key`.
        DataError: the template refuses a conversation, or nothing is left to learn.
    """
    template, names = template_of(tokenizer, data), list(token_features(tokenizer))
    key = token_key("pairs", source, [PAIR], tokenizer, data.max_length, template=template)
    writer = Writer(tokenizer, template)
    writer.check()

    def prepare() -> Encode:
        pairs = [parsed_pair(text) for text in source.table[PAIR]]
        return lambda rows: _sequences(writer, source, pairs, rows, data.max_length, names)

    features = token_features(
        tokenizer,
        row=Value("int64"),
        cut=Value("int32"),
        least=Value("int32"),
        learned=List(Value("int8")),
        position_ids=List(Value("int32")),
    )
    table = encoded(key, len(source), prepare, features, batch_size=TEXTS_PER_BATCH)
    least = np.asarray(table[_LEAST], dtype=np.int64)
    return kept(table.remove_columns(_LEAST), least, source, data)


def _sequences(
    writer: Writer,
    source: Source,
    pairs: Sequence[tuple[list[Turn], list[Turn]]],
    rows: list[int],
    max_length: int,
    names: Sequence[str],
) -> dict[str, Any]:
    """Some pairs as columns."""
    try:
        sides = [writer.write([pairs[row][side] for row in rows]) for side in (0, 1)]
    except ValueError:
        for row in rows:  # to name the one
            for turns in pairs[row]:
                refuse_unwritable(writer, source, row, turns)
        raise
    columns: dict[str, Any] = {name: [] for name in (*names, LEARNED, POSITIONS, CUT, _LEAST)}
    columns[ROW] = rows
    for chosen, rejected in zip(*sides, strict=True):
        both = [(side.input_ids[:max_length], side.learned[:max_length]) for side in (chosen, rejected)]
        columns["input_ids"].append([token for ids, _ in both for token in ids])
        columns[LEARNED].append([flag for _, flags in both for flag in flags])
        columns[POSITIONS].append([place for ids, _ in both for place in range(len(ids))])
        columns[CUT].append(sum(max(0, len(side.input_ids) - max_length) for side in (chosen, rejected)))
        columns[_LEAST].append(min(sum(flags[1:]) for _, flags in both))
    if "token_type_ids" in names:
        columns["token_type_ids"] = [[0] * len(ids) for ids in columns["input_ids"]]
    return columns
