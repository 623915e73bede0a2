"""Pairs of an image and its captions: pixels at the model's size, and the token ids of each caption."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from datasets import Features, List, Value, concatenate_datasets
from transformers import PreTrainedTokenizerBase, VisionTextDualEncoderProcessor

from fedfm.data.columns import is_text, text_column
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import Examples
from fedfm.data.images import encode_images
from fedfm.data.lists import is_list, list_column
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.data.tokens import TEXTS_PER_BATCH, cut_off, token_key, tokenized
from fedfm.errors import DataError, RecipeError

CAPTIONS = "captions"
"""Column of an encoded pair: the token ids of each of its captions."""


def encode_image_text(
    source: Source, data: DataSettings, processor: VisionTextDualEncoderProcessor, channels: int
) -> Examples:
    """One example per row: ``pixel_values`` [C, H, W], and ``captions``, the ids of each caption, not padded.

    Args:
        source: the rows.
        data: names the columns of the image, and of a caption or a list of captions.
        processor: image processor and tokenizer.
        channels: of the image processor.

    Raises:
        RecipeError: a column is missing or has the wrong type, or the model accepts fewer tokens.
        DataError: as `encode_images`; a list of captions is empty, a caption is blank or has no token.
    """
    (column,), tokenizer = data.text, processor.tokenizer
    images = encode_images(source, data.image, processor.image_processor, channels=channels, client=data.client)
    key = token_key("captions", source, [column], tokenizer, data.max_length)

    def prepare() -> Encode:
        captions, reader = captions_of(source, column), plain_tokenizer(tokenizer)
        return lambda rows: _encoded([captions[row] for row in rows], reader, data.max_length)

    features = Features({CAPTIONS: List(List(Value("int32"))), "cut": Value("int32")})
    table = encoded(key, len(source), prepare, features, batch_size=TEXTS_PER_BATCH)
    shortest, longest = np.array([[min(sizes), max(sizes)] for sizes in _sizes(table[CAPTIONS])], dtype=np.int32).T
    if len(empty := np.flatnonzero(shortest == 0)):
        raise DataError(f"{source.name}: the model has no token for a caption in {source.place(int(empty[0]))}")
    cut = np.asarray(table["cut"], dtype=np.int32)
    both = concatenate_datasets([images.table.with_format(None), table.remove_columns("cut")], axis=1)
    return Examples(both.with_format("numpy", dtype=np.int32), longest, clients=images.clients, cut=cut)


def captions_of(source: Source, column: str) -> list[list[str]]:
    """The captions of each row: a text, or a list of texts; in a file of text, a list is written as JSON.

    Raises:
        RecipeError: there is no such column, or it has another type.
        DataError: a caption is missing or blank, or a list is empty.
    """
    feature = source.table.features.get(column)
    if is_list(feature):
        captions = list_column(source, column, "data.text")
    elif feature is None or is_text(feature):
        captions = [_listed(text) for text in text_column(source, column, "data.text")]
    else:
        raise RecipeError(
            f"column `{column}` of {source.name} contains neither captions nor lists of captions", where="data.text"
        )
    for row, texts in enumerate(captions):
        if not texts or not all(text.strip() for text in texts):
            what = "a blank caption" if texts else "no caption"
            raise DataError(f"column `{column}` of {source.name} has {what} in {source.place(row)}", where="data.text")
    return captions


def _listed(text: str) -> list[str]:
    """The captions in a text: those of a JSON list of texts, else itself."""
    if text.startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return [text]
        if isinstance(found, list) and all(isinstance(caption, str) for caption in found):
            return found
    return [text]


def _encoded(captions: list[list[str]], reader: PreTrainedTokenizerBase, max_length: int) -> dict[str, Any]:
    flat = tokenized(reader, [[text for texts in captions for text in texts]], max_length)
    ids, cuts = iter(flat["input_ids"]), iter(cut_off(flat))
    return {
        CAPTIONS: [[next(ids) for _ in texts] for texts in captions],
        "cut": [sum(next(cuts) for _ in texts) for texts in captions],
    }


def _sizes(captions: Any) -> list[list[int]]:
    return [[len(ids) for ids in texts] for texts in captions]
