"""Samples of public text as token ids: pieces of documents in every length that a model may be given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerBase

from fedfm.data.columns import text_column
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import Examples
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.sources import Source
from fedfm.data.tokens import TEXTS_PER_BATCH, token_counts, token_features, token_key, tokenized
from fedfm.errors import RecipeError

SHORT = 4
"""Tokens of the shortest samples, not counting special tokens."""


def encode_samples(
    source: Source, column: str, tokenizer: PreTrainedTokenizerBase, max_length: int, *, pairs: bool, where: str
) -> Examples:
    """Documents as samples of every length; no text is dropped.

    Each document is cut into pieces, and each piece in two. The lengths of the first parts range from `SHORT` tokens to
    the whole piece, evenly on a logarithmic scale. For pairs, each part is cut into two texts: after a quarter, a half
    or three quarters, in turn.

    Args:
        source: the documents.
        column: their text column.
        tokenizer: a fast tokenizer.
        max_length: tokens per sample, including special tokens.
        pairs: whether a sample is two texts; parts of fewer than `SHORT` tokens are then left out.
        where: the recipe key that names the column, for messages.

    Raises:
        RecipeError: as for `fedfm.data.text.encode_text`; no sample remains.
    """
    key = token_key("sampled pairs" if pairs else "samples", source, [column] * (1 + pairs), tokenizer, max_length)
    room = max_length - tokenizer.num_special_tokens_to_add(pair=pairs)
    piece_length = room + tokenizer.num_special_tokens_to_add()
    features = token_features(tokenizer)

    def prepare() -> Encode:
        texts, reader = text_column(source, column, where), plain_tokenizer(tokenizer)

        def encode(rows: list[int]) -> dict[str, list[Any]]:
            sides = _sampled_texts(reader, [texts[row] for row in rows], piece_length, pairs=pairs)
            return dict(tokenized(reader, sides, max_length)) if sides[0] else {name: [] for name in features}

        return encode

    table = encoded(key, len(source), prepare, features, batch_size=TEXTS_PER_BATCH)
    if not len(table):
        least = f"{SHORT} tokens" if pairs else "one token"
        raise RecipeError(f"column `{column}` of {source.name} has no text of at least {least}", where=where)
    return Examples(table, token_counts(table))


def sample_texts(
    source: Source, column: str, tokenizer: PreTrainedTokenizerBase, max_length: int, *, pairs: bool, where: str
) -> Dataset:
    """The texts of the samples that `encode_samples` encodes; arguments and errors are the same.

    Returns:
        One row a sample, with the column ``first``, and for pairs also ``second``.
    """
    names = ("first", "second") if pairs else ("first",)
    key = token_key("texts of samples", source, [column] * len(names), tokenizer, max_length)
    piece_length = max_length - tokenizer.num_special_tokens_to_add(pair=pairs) + tokenizer.num_special_tokens_to_add()

    def prepare() -> Encode:
        texts, reader = text_column(source, column, where), plain_tokenizer(tokenizer)

        def cut(rows: list[int]) -> dict[str, list[Any]]:
            sides = _sampled_texts(reader, [texts[row] for row in rows], piece_length, pairs=pairs)
            return dict(zip(names, sides, strict=True))

        return cut

    features = Features({name: Value("string") for name in names})
    table = encoded(key, len(source), prepare, features, batch_size=TEXTS_PER_BATCH)
    if not len(table):
        raise RecipeError(f"column `{column}` of {source.name} has no text that is long enough", where=where)
    return table


def _sampled_texts(
    reader: PreTrainedTokenizerBase, documents: Sequence[str], piece_length: int, *, pairs: bool
) -> list[list[str]]:
    """The texts of all samples of some documents: one list, or two lists for pairs."""
    pieces = tokenized(
        reader,
        [list(documents)],
        piece_length,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    shortest = SHORT if pairs else 1
    sides: list[list[str]] = [[], []] if pairs else [[]]
    for number, (document, spans) in enumerate(
        zip(pieces["overflow_to_sample_mapping"], _token_spans(pieces), strict=True)
    ):
        for part in _in_two(spans, number):
            if len(part) < shortest:
                continue
            ends = [part[0][0], part[-1][1]]
            if pairs:
                ends.insert(1, part[len(part) * (1 + len(sides[0]) % 3) // 4][0])
            for side, (start, end) in zip(sides, pairwise(ends), strict=True):
                side.append(documents[document][start:end])
    return sides


def _in_two(spans: list[tuple[int, int]], number: int) -> list[list[tuple[int, int]]]:
    """A piece cut at a position that its number decides; a short piece is not cut."""
    if len(spans) < 2 * SHORT:
        return [spans]
    even = number * 0.618034 % 1  # consecutive numbers are far apart, and all of them are spread evenly
    cut = round(SHORT * (len(spans) / SHORT) ** even)
    return [part for part in (spans[:cut], spans[cut:]) if part]


def _token_spans(pieces: Mapping[str, Any]) -> Iterator[list[tuple[int, int]]]:
    """Where the tokens of each piece begin and end in its document, without special tokens."""
    for offsets, specials in zip(pieces["offset_mapping"], pieces["special_tokens_mask"], strict=True):
        yield [span for span, is_special in zip(offsets, specials, strict=True) if not is_special]
