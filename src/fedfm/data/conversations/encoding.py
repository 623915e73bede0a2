"""Conversations as examples of a decoder (one sequence) or of an encoder-decoder (a text, and each response to it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, List, Value
from transformers import PreTrainedTokenizerBase

from fedfm.data.columns import clients_of
from fedfm.data.conversations.packing import packed
from fedfm.data.conversations.reading import CONVERSATION, KEY
from fedfm.data.conversations.templates import Writer, template_of
from fedfm.data.conversations.turns import Turn, parsed
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import Examples
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.data.tokens import TEXTS_PER_BATCH, cut_off, token_counts, token_features, token_key
from fedfm.errors import DataError

LEARNED = "learned"
"""Column: 1 for each token that is learnt, else 0."""

RESPONSE = "labels"
"""Column: the token ids of a response, which a decoder learns."""

_ROW, _CUT = "row", "cut"


def encode_conversations(source: Source, data: DataSettings, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """One sequence for each conversation, with `LEARNED`; truncated to ``data.max_length`` tokens.

    Conversations of which nothing would be learnt are left out, and counted in the notes. With ``data.pack``, several
    conversations of a client share a sequence; ``position_ids`` then begin at 0 for each.

    Args:
        source: from `fedfm.data.conversations.reading.with_conversations`.
        data: says how conversations are written and truncated.
        tokenizer: a fast tokenizer.

    Raises:
        RecipeError: the tokenizer lacks what the settings ask for; see `template_of` and `token_key`.
        DataError: the template refuses a conversation, or nothing is left to learn.
    """
    template, names = template_of(tokenizer, data), list(token_features(tokenizer))
    key = token_key("conversations", source, [CONVERSATION], tokenizer, data.max_length, template=template)
    writer = Writer(tokenizer, template)
    writer.check()

    def prepare() -> Encode:
        turns = _conversations(source)

        def encode(rows: list[int]) -> dict[str, Any]:
            return _sequences(writer, source, turns, rows, data.max_length, names)

        return encode

    features = token_features(tokenizer, row=Value("int64"), cut=Value("int32"), learned=List(Value("int8")))
    table = encoded(key, len(source), prepare, features, batch_size=TEXTS_PER_BATCH)
    learnt = np.fromiter((sum(flags[1:]) for flags in table[LEARNED]), dtype=np.int64, count=len(table))
    examples = _kept(table, learnt, source, data)
    return packed(examples, key, data.max_length) if data.pack else examples


def encode_responses(source: Source, data: DataSettings, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """One example for each learnt response: the turns before it as the encoder's text, and itself as `RESPONSE`.

    The encoder reads a single question as it is, and several turns with the names of their roles. Both sides are
    truncated to ``data.max_length`` tokens and get the tokenizer's special tokens. Blank responses are left out, and
    counted in the notes.

    Args:
        source: from `fedfm.data.conversations.reading.with_conversations`.
        data: says how long the two sides may be.
        tokenizer: a fast tokenizer.

    Raises:
        RecipeError: see `token_key`.
        DataError: nothing is left to learn.
    """
    key = token_key("responses", source, [CONVERSATION], tokenizer, data.max_length)
    names = list(token_features(tokenizer))

    def prepare() -> Encode:
        turns, reader = _conversations(source), plain_tokenizer(tokenizer)
        return lambda rows: _sides(reader, turns, rows, data.max_length, names)

    features = token_features(tokenizer, row=Value("int64"), cut=Value("int32"), labels=List(Value("int32")))
    table = encoded(key, len(source), prepare, features, batch_size=TEXTS_PER_BATCH)
    learnt = np.fromiter(map(len, table[RESPONSE]), dtype=np.int64, count=len(table))
    return _kept(table, learnt, source, data)


def _conversations(source: Source) -> list[list[Turn]]:
    return [parsed(text) for text in source.table[CONVERSATION]]


def _sequences(
    writer: Writer,
    source: Source,
    conversations: Sequence[Sequence[Turn]],
    rows: list[int],
    max_length: int,
    names: Sequence[str],
) -> dict[str, Any]:
    """Some conversations as columns."""
    try:
        written = writer.write([conversations[row] for row in rows])
    except ValueError:
        for row in rows:  # to name the one
            _refuse_unwritable(writer, source, row, conversations[row])
        raise
    columns: dict[str, Any] = {
        "input_ids": [one.input_ids[:max_length] for one in written],
        LEARNED: [one.learned[:max_length] for one in written],
        _ROW: rows,
        _CUT: [max(0, len(one.input_ids) - max_length) for one in written],
    }
    if "token_type_ids" in names:
        columns["token_type_ids"] = [[0] * len(ids) for ids in columns["input_ids"]]
    return columns


def _refuse_unwritable(writer: Writer, source: Source, row: int, turns: Sequence[Turn]) -> None:
    try:
        writer.rendered(turns)
    except ValueError as error:
        raise DataError(
            f"{source.name}: {source.place(row)}: the tokenizer's chat template {error}; change the data, or set "
            "data.template: plain",
            where=KEY,
        ) from error


def _sides(
    reader: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Turn]],
    rows: list[int],
    max_length: int,
    names: Sequence[str],
) -> dict[str, Any]:
    """The learnt responses of some conversations as columns; a row without any has one example without tokens."""
    pairs = [
        (row, _history(turns[:number]), turn.text)
        for row in rows
        for turns in [conversations[row]]
        for number, turn in enumerate(turns)
        if turn.learned
    ]
    columns: dict[str, Any] = {name: [] for name in (*names, RESPONSE, _ROW, _CUT)}
    if pairs:
        columns[_ROW] = [row for row, _, _ in pairs]
        asked = reader([text for _, text, _ in pairs], truncation=True, max_length=max_length)
        given = reader([text for _, _, text in pairs], truncation=True, max_length=max_length)
        columns |= {name: asked[name] for name in names}
        columns[RESPONSE] = given["input_ids"]
        columns[_CUT] = [sum(lost) for lost in zip(cut_off(asked), cut_off(given), strict=True)]
    for row in set(rows) - {row for row, _, _ in pairs}:
        columns[_ROW].append(row)
        columns[_CUT].append(0)
        for name in (*names, RESPONSE):
            columns[name].append([])
    return columns


def _history(turns: Sequence[Turn]) -> str:
    """What the encoder reads: a single turn as it is, several with the names of their roles."""
    if len(turns) == 1:
        return turns[0].text
    return "\n".join(f"{turn.role.capitalize()}:\n{turn.text}" for turn in turns)


def _kept(table: Dataset, learnt: np.ndarray, source: Source, data: DataSettings) -> Examples:
    """The examples of which something is learnt, with notes about the others and about what was cut.

    Args:
        table: encoded, with the row and the number of cut tokens of each example.
        learnt: number of learnt tokens of each example, [N].
        source: of the rows.
        data: for messages.

    Raises:
        DataError: nothing is left to learn.
    """
    rows, cut = np.asarray(table[_ROW]), np.asarray(table[_CUT], dtype=np.int32)
    lost, blank, shortened = (learnt == 0) & (cut > 0), (learnt == 0) & (cut == 0), (learnt > 0) & (cut > 0)

    def note(found: np.ndarray, says: str) -> list[str]:
        first = source.place(int(rows[found][0])) if found.any() else ""
        return [f"{source.name}: {found.sum():,} of {len(rows):,} examples {says} (first: {first})"] * bool(found.any())

    limit = f"{data.max_length} tokens (data.max_length)"
    notes = [
        *note(shortened, f"are longer than {limit}: {cut[shortened].sum():,} tokens at their ends are cut off"),
        *note(lost, f"have their whole response after {limit} and are left out"),
        *note(blank, "have no response that is learnt and are left out"),
    ]
    keep = np.flatnonzero(learnt)
    if not len(keep):
        raise DataError("; ".join(notes), where="data.max_length" if lost.any() else KEY)
    clients = clients_of(source, data.client)
    return Examples(
        table=table.remove_columns([_ROW, _CUT]).select(keep),
        lengths=token_counts(table)[keep],
        clients=None if clients is None else clients[rows[keep]],
        cut=cut[keep],
        notes=tuple(notes),
    )
