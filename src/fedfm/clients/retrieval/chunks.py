"""Texts cut into chunks of equal length that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from fedfm.clients.retrieval.settings import AskSettings
from fedfm.data.examples import Examples
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.tokens import token_counts, token_features, tokenized
from fedfm.errors import RecipeError


@dataclass(frozen=True, eq=False)
class Chunks:
    """N chunks, in the order of their documents.

    Attributes:
        examples: their token ids, each with the special tokens around it.
        texts: what they say, as it is in the document.
    """

    examples: Examples
    texts: Sequence[str]


def refuse_unfit_chunks(tokenizer: PreTrainedTokenizerBase, settings: AskSettings) -> None:
    """Refuses chunks that the model cannot read, or that do not advance in a text.

    Raises:
        RecipeError: at ``ask.chunk_tokens`` or ``ask.overlap_tokens``.
    """
    own = settings.chunk_tokens - tokenizer.num_special_tokens_to_add()
    if settings.chunk_tokens > tokenizer.model_max_length:
        raise RecipeError(
            f"{settings.chunk_tokens} is more than the {tokenizer.model_max_length} tokens that the model accepts",
            where="ask.chunk_tokens",
        )
    if settings.overlap_tokens >= own:
        raise RecipeError(
            f"a chunk of {settings.chunk_tokens} tokens has {own} of a text, and cannot share "
            f"{settings.overlap_tokens} of them with the one before it",
            where="ask.overlap_tokens",
        )


def cut(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, settings: AskSettings) -> Chunks:
    """Documents cut into chunks; every token of them is in at least one.

    Args:
        documents: at least one.
        tokenizer: a fast tokenizer.
        settings: length and overlap of chunks.

    Raises:
        RecipeError: as `refuse_unfit_chunks`.
        ValueError: no document has a token.
    """
    refuse_unfit_chunks(tokenizer, settings)
    found = tokenized(
        plain_tokenizer(tokenizer),
        [list(documents)],
        settings.chunk_tokens,
        stride=settings.overlap_tokens,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    kept, texts = list[int](), list[str]()
    for place, (document, offsets) in enumerate(
        zip(found["overflow_to_sample_mapping"], found["offset_mapping"], strict=True)
    ):
        own = [(start, stop) for start, stop in offsets if start < stop]  # special tokens have no text
        if own:
            kept.append(place)
            texts.append(documents[document][own[0][0] : own[-1][1]])
    if not kept:
        raise ValueError("the model has no token for any of the client's texts")
    features = token_features(tokenizer)
    table = Dataset.from_dict({name: [found[name][place] for place in kept] for name in features}, features=features)
    return Chunks(Examples(table, token_counts(table)), texts)
