"""What encoded texts have in common: the cache key, the tokenizer call, the columns, and the lengths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers
from datasets import Dataset, Features, List, Value
from transformers import BatchEncoding, PreTrainedTokenizerBase

from fedfm.data.cache import cache_key
from fedfm.data.sources import Source
from fedfm.errors import RecipeError

TEXTS_PER_BATCH = 1000


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 (hex) of everything that decides which ids a text gets; padding and truncation are set at each call."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.update(truncation=None, padding=None, side=tokenizer.truncation_side, inputs=tokenizer.model_input_names)
    content.update(library=tokenizers.__version__, special=sorted(tokenizer.all_special_ids))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def token_key(
    kind: str,
    source: Source,
    columns: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    **more: object,
) -> str:
    """The cache key of encoded text columns.

    Raises:
        RecipeError: at ``model.path`` if the tokenizer is not a fast one; at ``data.max_length`` if it exceeds what the
            model accepts, or has no room for text beside the special tokens.
    """
    if not tokenizer.is_fast:
        raise RecipeError("the model has no fast tokenizer (a tokenizer.json)", where="model.path")
    limit, special = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add(pair=len(columns) == 2)
    if max_length > limit:
        raise RecipeError(
            f"{max_length} is more than the {limit} tokens that the model accepts", where="data.max_length"
        )
    if max_length <= special:
        raise RecipeError(
            f"{max_length} tokens leave no room for text: {special} of them are special tokens", where="data.max_length"
        )
    return cache_key(
        kind=kind,
        source=source.digest,
        columns=list(columns),
        tokenizer=tokenizer_digest(tokenizer),
        max_length=max_length,
        version=2,
        **more,
    )


def tokenized(
    reader: PreTrainedTokenizerBase, texts: Sequence[list[str]], max_length: int | None, **settings: Any
) -> BatchEncoding:
    """The tokens of a batch of texts or pairs, not padded; truncated if there is a ``max_length``."""
    encoded: BatchEncoding = reader(
        *texts,
        truncation=max_length is not None,
        padding=False,
        max_length=max_length,
        return_attention_mask=False,
        **settings,
    )
    return encoded


def cut_off(encoded: BatchEncoding) -> list[int]:
    """How many tokens truncation has cut off each text or pair."""
    return [
        sum(len(tokens) for _, tokens in {part for more in one.overflowing for part in _parts(more)} - _parts(one))
        for one in encoded.encodings or ()
    ]


def _parts(encoding: tokenizers.Encoding) -> set[tuple[int, tuple[tuple[int, int], ...]]]:
    """The tokens of each side of a pair, by their places in the text; overflowing pairs repeat a side."""
    places = list(zip(encoding.sequence_ids, encoding.offsets, strict=True))
    return {(side, tuple(place for own, place in places if own == side)) for side in (0, 1)}


def token_features(tokenizer: PreTrainedTokenizerBase, **more: Value | List) -> Features:
    """The columns of an encoded text: ``input_ids``, and ``token_type_ids`` if the model reads them."""
    features: dict[str, Value | List] = {"input_ids": List(Value("int32")), **more}
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = List(Value("int8"))
    return Features(features)


def token_counts(table: Dataset) -> np.ndarray:
    """int32 [N]: the number of ids of each row, read from the list offsets."""
    columns = table.data.column("input_ids").chunks
    return np.concatenate([chunk.value_lengths().to_numpy() for chunk in columns]).astype(np.int32)
