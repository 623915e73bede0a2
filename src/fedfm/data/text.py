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
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError

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
        DataError: when a text has no token.
    """
    key = _key("text", source, columns, tokenizer, max_length)

    def prepare() -> Encode:
        texts, reader = [text_column(source, column, "data.text") for column in columns], plain_tokenizer(tokenizer)
        return lambda rows: _tokens(reader, [[column[row] for row in rows] for column in texts], max_length)

    labels, clients = labels_of(source, label, label_map), clients_of(source, client)
    table = encoded(key, len(source), prepare, _features(tokenizer), batch_size=_TEXTS_PER_BATCH)
    lengths = _lengths(table)
    if len(empty := np.flatnonzero(lengths == 0)):
        raise DataError(f"{source.name}: the model has no token for the text in row {source.row_number(empty[0])}")
    return Examples(table, lengths, labels, clients)


def encode_documents(
    source: Source,
    column: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    end_token: bool = False,
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
        end_token: whether the last piece of a document, and no other, ends with the tokenizer's end token.
        client: column that names the client, or None.
        where: the recipe key that names the column, for messages.

    Raises:
        RecipeError: as `encode_text`; when no piece is left; at ``data.end_token`` when the tokenizer has none.
    """
    end = tokenizer.eos_token_id if end_token else None
    if end_token and end is None:
        raise RecipeError(
            "the tokenizer has no end token, so documents cannot end with it; set `data.end_token: false`",
            where="data.end_token",
        )
    key = _key("documents", source, [column], tokenizer, max_length, end=end)
    names = list(_features(tokenizer))

    def prepare() -> Encode:
        texts, reader = text_column(source, column, where), plain_tokenizer(tokenizer)

        def encode(rows: list[int]) -> dict[str, list[Any]]:
            whole = _tokens(reader, [[texts[row] for row in rows]], None, return_special_tokens_mask=True)
            columns: dict[str, list[Any]] = {name: [] for name in (*names, "document")}
            for place, row in enumerate(rows):
                document = {name: whole[name][place] for name in names}
                for piece in _pieces(document, whole["special_tokens_mask"][place], max_length, end):
                    columns["document"].append(row)
                    for name in names:
                        columns[name].append(piece[name])
            return columns

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


def _pieces(
    document: dict[str, list[int]], specials: list[int], max_length: int, end: int | None
) -> Iterator[dict[str, list[int]]]:
    """The pieces of one document, each in its frame of special tokens.

    Args:
        document: its tokens by the model's input names, the frame included.
        specials: 1 where a token is the frame's.
        max_length: tokens a piece, the frame included.
        end: token that ends the document; None: the frame is all that stands behind it.
    """
    if 0 not in specials:
        return
    start, stop = specials.index(0), len(specials) - specials[::-1].index(0)
    head, tail = list(range(start)), list(range(stop, len(specials)))  # places of the frame's tokens
    body = list(range(start, stop))
    if end is not None:
        tail = [place for place in tail if document["input_ids"][place] != end]
        body.append(len(specials))
        document = {name: [*values, end if name == "input_ids" else values[-1]] for name, values in document.items()}
    room = max_length - len(head) - len(tail)
    cuts = [*range(0, len(body), room), len(body)]
    if end is not None and room > 1 and len(cuts) > 2 and cuts[-1] - cuts[-2] == 1:
        cuts[-2] -= 1  # the end token is predicted from the document's last word
    for first, last in pairwise(cuts):
        places = [*head, *body[first:last], *tail]
        if len(places) >= max(2, len(head) + len(tail) + 1):
            yield {name: [values[place] for place in places] for name, values in document.items()}


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
        texts, reader = text_column(source, column, where), plain_tokenizer(tokenizer)

        def encode(rows: list[int]) -> dict[str, list[Any]]:
            pieces = _tokens(
                reader,
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
            return _tokens(reader, sides, max_length)

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
    content.update(library=tokenizers.__version__, special=sorted(tokenizer.all_special_ids))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _key(
    kind: str,
    source: Source,
    columns: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    **more: object,
) -> str:
    if not tokenizer.is_fast:
        raise RecipeError("the model has no fast tokenizer (a tokenizer.json)", where="model.path")
    room, special = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add(pair=len(columns) == 2)
    if max_length > room:
        raise RecipeError(f"{max_length} is more than the {room} tokens that the model takes", where="data.max_length")
    if max_length <= special:
        raise RecipeError(f"{max_length} tokens leave none for text: {special} are special", where="data.max_length")
    digest = tokenizer_digest(tokenizer)
    return cache_key(
        kind=kind,
        source=source.digest,
        columns=list(columns),
        tokenizer=digest,
        max_length=max_length,
        version=2,
        **more,
    )


def _tokens(
    reader: PreTrainedTokenizerBase, texts: Sequence[list[str]], max_length: int | None, **settings: Any
) -> dict[str, list[Any]]:
    """A batch of texts, or of pairs, truncated where there is a ``max_length``, and not padded."""
    truncation = max_length is not None
    return dict(
        reader(
            *texts, truncation=truncation, padding=False, max_length=max_length, return_attention_mask=False, **settings
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
