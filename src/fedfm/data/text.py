"""Text to token ids, once: classification cuts an example off, language modelling cuts a document up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import tokenizers
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from fedfm.data.cache import cache_key
from fedfm.data.columns import clients_of, text_column
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap, labels_of
from fedfm.data.sources import Source
from fedfm.errors import RecipeError

_TEXTS_PER_BATCH = 1000

SHORT = 4
"""Tokens of the shortest samples, special ones not counted."""


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
    """One example a row, truncated to ``max_length`` tokens, not padded.

    Args:
        source: the rows.
        columns: one text column, or two for pairs.
        tokenizer: a fast tokenizer.
        max_length: tokens, special ones included.
        label: column of the class, encoded by ``label_map``; None for unlabelled examples.
        label_map: the classes; needed with ``label``.
        client: column that names the client, or None; examples that are not trained on may lack it.

    Raises:
        RecipeError: when a column is missing or not what it should be, or the model takes fewer tokens.
    """
    key = _key("text", source, columns, tokenizer, max_length)

    def prepare() -> Encode:
        texts = [text_column(source, column, "data.text") for column in columns]
        return lambda rows: _tokens(tokenizer, [[column[row] for row in rows] for column in texts], max_length)

    labels, clients = labels_of(source, label, label_map), clients_of(source, client)
    table = encoded(key, len(source), prepare, _features(tokenizer), batch_size=_TEXTS_PER_BATCH)
    return Examples(table, _lengths(table), labels, clients)


def encode_documents(
    source: Source,
    column: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    client: str | None = None,
    where: str = "data.text",
) -> Examples:
    """Documents for language modelling, each cut into pieces of at most ``max_length`` tokens; nothing is thrown away.

    Every piece gets the special tokens that the tokenizer puts around a text, and belongs to its document's client.
    Pieces in which there is nothing to predict (one token in all, or special ones only) are left out.

    Args:
        source: the documents.
        column: their text column.
        tokenizer: a fast tokenizer.
        max_length: tokens a piece, special ones included.
        client: column that names the client, or None.
        where: the recipe key that names the column, for messages.

    Raises:
        RecipeError: as `encode_text`, and when no piece is left.
    """
    key = _key("documents", source, [column], tokenizer, max_length)
    shortest = max(2, tokenizer.num_special_tokens_to_add() + 1)

    def prepare() -> Encode:
        texts = text_column(source, column, where)

        def encode(rows: list[int]) -> dict[str, list[Any]]:
            pieces = _tokens(tokenizer, [[texts[row] for row in rows]], max_length, return_overflowing_tokens=True)
            documents = [rows[place] for place in pieces.pop("overflow_to_sample_mapping")]
            kept = [place for place, ids in enumerate(pieces["input_ids"]) if len(ids) >= shortest]
            columns = {**pieces, "document": documents}
            return {name: [values[place] for place in kept] for name, values in columns.items()}

        return encode

    clients = clients_of(source, client)
    features = _features(tokenizer, document=Value("int64"))
    table = encoded(key, len(source), prepare, features, batch_size=_TEXTS_PER_BATCH)
    if not len(table):
        raise RecipeError(f"column `{column}` of {source.name} has no text of two tokens or more", where=where)
    if clients is not None:
        clients = clients[np.asarray(table["document"])]
    table = table.remove_columns("document")
    return Examples(table, _lengths(table), clients=clients)


def encode_samples(
    source: Source, column: str, tokenizer: PreTrainedTokenizerBase, max_length: int, *, pairs: bool, where: str
) -> Examples:
    """Documents as samples of what a model may be asked to read, of every length; nothing is thrown away.

    Each is cut into pieces, and each piece in two at a place that goes from a few tokens to all of them, evenly in the
    logarithm. For pairs each of these is two texts: a quarter, a half or three quarters, in turn, and the rest.

    Args:
        source: the documents.
        column: their text column.
        tokenizer: a fast tokenizer.
        max_length: tokens a sample, special ones included.
        pairs: whether a sample is two texts; those of less than four tokens are left out.
        where: the recipe key that names the column, for messages.

    Raises:
        RecipeError: as `encode_text`, and when no sample is left.
    """
    key = _key("sampled pairs" if pairs else "samples", source, [column] * (1 + pairs), tokenizer, max_length)
    special = tokenizer.num_special_tokens_to_add()
    room = max_length - tokenizer.num_special_tokens_to_add(pair=pairs)
    shortest = SHORT if pairs else 1

    def prepare() -> Encode:
        texts = text_column(source, column, where)

        def encode(rows: list[int]) -> dict[str, list[Any]]:
            pieces = _tokens(
                tokenizer,
                [[texts[row] for row in rows]],
                room + special,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
            )
            sides: list[list[str]] = [[], []] if pairs else [[]]
            for number, (place, spans) in enumerate(
                zip(pieces["overflow_to_sample_mapping"], _spans(pieces), strict=True)
            ):
                text = texts[rows[place]]
                for part in _in_two(spans, number):
                    if len(part) < shortest:
                        continue
                    ends = [part[0][0], part[-1][1]]
                    if pairs:
                        ends.insert(1, part[len(part) * (1 + len(sides[0]) % 3) // 4][0])
                    for side, (start, end) in zip(sides, pairwise(ends), strict=True):
                        side.append(text[start:end])
            if not sides[0]:
                return {name: [] for name in _features(tokenizer)}
            return _tokens(tokenizer, sides, max_length)

        return encode

    table = encoded(key, len(source), prepare, _features(tokenizer), batch_size=_TEXTS_PER_BATCH)
    if not len(table):
        least = f"{SHORT} tokens" if pairs else "a token"
        raise RecipeError(f"column `{column}` of {source.name} has no text of {least} or more", where=where)
    return Examples(table, _lengths(table))


def _in_two(spans: list[tuple[int, int]], number: int) -> list[list[tuple[int, int]]]:
    """A piece cut at a place that its number decides; a short one as it is."""
    if len(spans) < 2 * SHORT:
        return [spans]
    even = number * 0.618034 % 1  # numbers one after the other are far apart, and all of them spread evenly
    cut = round(SHORT * (len(spans) / SHORT) ** even)
    return [part for part in (spans[:cut], spans[cut:]) if part]


def _spans(pieces: dict[str, list[Any]]) -> Iterator[list[tuple[int, int]]]:
    """Where the tokens of each piece begin and end in its document, special ones left out."""
    for offsets, specials in zip(pieces["offset_mapping"], pieces["special_tokens_mask"], strict=True):
        yield [span for span, is_special in zip(offsets, specials, strict=True) if not is_special]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 (hex) of everything that decides which ids a text gets; padding and truncation are set at each call."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.update(truncation=None, padding=None, side=tokenizer.truncation_side, inputs=tokenizer.model_input_names)
    content["library"] = tokenizers.__version__
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _key(kind: str, source: Source, columns: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    if not tokenizer.is_fast:
        raise RecipeError("the model has no fast tokenizer (a tokenizer.json)", where="model.path")
    room, special = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add(pair=len(columns) == 2)
    if max_length > room:
        raise RecipeError(f"{max_length} is more than the {room} tokens that the model takes", where="data.max_length")
    if max_length <= special:
        raise RecipeError(f"{max_length} tokens leave none for text: {special} are special", where="data.max_length")
    digest = tokenizer_digest(tokenizer)
    return cache_key(
        kind=kind, source=source.digest, columns=list(columns), tokenizer=digest, max_length=max_length, version=1
    )


def _tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[list[str]], max_length: int, **settings: Any
) -> dict[str, list[Any]]:
    """A batch of texts, or of pairs, truncated and not padded."""
    return dict(
        tokenizer(
            *texts, truncation=True, padding=False, max_length=max_length, return_attention_mask=False, **settings
        )
    )


def _features(tokenizer: PreTrainedTokenizerBase, **more: Value) -> Features:
    features = {"input_ids": List(Value("int32")), **more}
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = List(Value("int8"))
    return Features(features)


def _lengths(table: Dataset) -> np.ndarray:
    """int32 [N]: the number of ids of each row, read off the list offsets."""
    columns = table.data.column("input_ids").chunks
    return np.concatenate([chunk.value_lengths().to_numpy() for chunk in columns]).astype(np.int32)
