"""Public data at the server: unlabelled inputs of a backbone for distillation, alignment and probes, or plain texts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, VisionTextDualEncoderProcessor

from fedfm.data.batches import batch_plan, epoch_order, evaluation_batches
from fedfm.data.cache import table_digest
from fedfm.data.examples import Examples
from fedfm.data.images import PixelStatistics, encode_images
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.samples import encode_samples, sample_texts
from fedfm.data.settings import PublicSettings
from fedfm.data.sources import Source, read_source
from fedfm.errors import RecipeError
from fedfm.models.processors import Processor, SingleProcessor
from fedfm.randomness import numpy_generator
from fedfm.tasks.base import Batch
from fedfm.tasks.classification import channels

IMAGE_TOKENS = 64
"""How many tokens of text an image counts for, where an amount of public data is named in tokens."""


@dataclass(frozen=True)
class PublicData:
    """Encoded public examples.

    Attributes:
        examples: pieces of text, or images.
        indices: the examples that ``public.limit`` selects, ascending.
        processor: the backbone's tokenizer or image processor.
        digest: of the content of the source.
    """

    examples: Examples
    indices: np.ndarray
    processor: SingleProcessor
    digest: str

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the encoded examples, and of which of them are selected."""
        return hashlib.sha256(table_digest(self.examples.table).encode() + self.indices.tobytes()).hexdigest()

    def batches(
        self,
        size: int,
        *,
        steps: int,
        seed: int,
        purpose: str,
        round: int = 0,  # noqa: A002 - the field's word
    ) -> Iterator[Batch]:
        """``steps`` batches of at most ``size`` examples, over as many shuffled passes as they need."""
        generator = numpy_generator(seed, f"public {purpose}", round=round)
        for chosen in batch_plan(len(self), size, epochs=1, max_steps=steps, generator=generator):
            yield self._collate(self.examples.take(self.indices[chosen]))

    def fixed(self, size: int, count: int, *, seed: int, purpose: str, round: int = 0) -> list[Batch]:  # noqa: A002
        """The first ``count`` batches of a keyed shuffle, the same at every call; at most one pass over the data."""
        most = -(-len(self) // size)
        return list(self.batches(size, steps=min(count, most), seed=seed, purpose=purpose, round=round))

    def enough(self, tokens: int, size: int, *, seed: int, purpose: str, round: int = 0) -> list[Batch]:  # noqa: A002
        """The first examples of a keyed shuffle that have so many tokens in all, or all examples where there are fewer.

        Batches are of similar length, so that they need little padding.
        """
        shuffled = self.indices[epoch_order(len(self), numpy_generator(seed, f"public {purpose}", round=round))]
        before = self._tokens[shuffled].cumsum() - self._tokens[shuffled]
        chosen = shuffled[before < tokens]
        batches = evaluation_batches(self._tokens[chosen], size)
        return [self._collate(self.examples.take(chosen[batch])) for batch in batches]

    def passes_for(self, tokens: int) -> int:
        """About how many examples of full length take as long as the batches of `enough`, which have little padding."""
        lengths = self._tokens[self.indices]
        return math.ceil(min(tokens, int(lengths.sum())) / int(lengths.max()))

    @property
    def _tokens(self) -> np.ndarray:
        """Tokens of each example."""
        is_text = isinstance(self.processor, PreTrainedTokenizerBase)
        return self.examples.lengths if is_text else self.examples.lengths * IMAGE_TOKENS

    def held_back(self, most: int, *, seed: int, purpose: str) -> tuple[PublicData, PublicData]:
        """A keyed split: at most ``most`` examples and a fifth of all are held back; the rest, and those.

        Raises:
            ValueError: there are fewer than two examples.
        """
        if len(self) < 2:
            raise ValueError("one public example cannot be split")
        shuffled = numpy_generator(seed, f"public {purpose}").permutation(len(self))
        count = max(1, min(most, len(self) // 5))
        rest, held = (np.sort(self.indices[part]) for part in (shuffled[count:], shuffled[:count]))
        return replace(self, indices=rest), replace(self, indices=held)

    def _collate(self, rows: Sequence[dict[str, Any]]) -> Batch:
        if isinstance(self.processor, PreTrainedTokenizerBase):
            return dict(self.processor.pad(list(rows), return_tensors="pt"))
        statistics = PixelStatistics.of(self.processor, channels(self.processor))
        return {"pixel_values": statistics.pixels(torch.from_numpy(np.stack([row["pixel_values"] for row in rows])))}


def read_public(
    settings: PublicSettings,
    processor: Processor,
    *,
    max_length: int,
    seed: int,
    pairs: bool = False,
    allow_network: bool = False,
    where: str = "public",
) -> PublicData:
    """Reads and encodes public data for a backbone.

    Args:
        settings: the recipe's ``public``.
        processor: the backbone's tokenizer or image processor, which decides whether the data is text or images.
        max_length: tokens per piece, if the settings do not give them.
        seed: the recipe's seed; the selection of ``limit`` derives from it.
        pairs: whether a piece of text is two texts, for a task on pairs.
        allow_network: whether a hub data set may be downloaded.
        where: the recipe key of the settings.

    Raises:
        RecipeError: the data does not exist or lacks the column; the model reads images and texts.
        DataError: the data cannot be read.
    """
    if isinstance(processor, VisionTextDualEncoderProcessor):
        raise RecipeError("public data is of texts or of images, but the model reads both: leave it out", where=where)
    source = _source(settings, processor, allow_network=allow_network, where=where)
    if isinstance(processor, PreTrainedTokenizerBase):
        length = min(settings.max_length or max_length, processor.model_max_length)
        examples = encode_samples(source, settings.text, processor, length, pairs=pairs, where=f"{where}.text")
    else:
        examples = encode_images(source, settings.image, processor, channels=channels(processor))
    return PublicData(examples, chosen_places(settings, len(examples), seed), processor, source.digest)


@dataclass(frozen=True)
class PublicTexts:
    """Public examples as plain texts, for models with different tokenizers.

    Attributes:
        table: one row a text, or a pair of texts.
        indices: the rows that ``public.limit`` selects, ascending.
        digest: of the content of the source.
    """

    table: Dataset
    indices: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.indices)

    def size_bytes(self, examples: int) -> int:
        """Bytes of that many examples, on average: their UTF-8 texts and 8 bytes for the end of each."""
        rows = self.table[self.indices]
        total = sum(len(text.encode()) + 8 for name in self.table.column_names for text in rows[name])
        return round(total / len(self) * examples)

    def take(self, positions: np.ndarray) -> list[list[str]]:
        """Examples at positions among those selected: one list of texts, or two lists for pairs."""
        rows = self.table[self.indices[positions]]
        return [list(rows[name]) for name in self.table.column_names]


def read_public_texts(
    settings: PublicSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    seed: int,
    pairs: bool = False,
    allow_network: bool = False,
) -> PublicTexts:
    """Reads public texts, cut as `read_public` cuts them; arguments and errors are the same.

    Args:
        settings: the recipe's ``public``.
        tokenizer: the server's, in whose tokens the length of a text is measured.
        max_length: as in `read_public`.
        seed: as in `read_public`.
        pairs: as in `read_public`.
        allow_network: as in `read_public`.
    """
    source = _source(settings, tokenizer, allow_network=allow_network, where="public")
    length = min(settings.max_length or max_length, tokenizer.model_max_length)
    table = sample_texts(source, settings.text, tokenizer, length, pairs=pairs, where="public.text")
    return PublicTexts(table, chosen_places(settings, len(table), seed), source.digest)


def _source(settings: PublicSettings, processor: Processor, *, allow_network: bool, where: str) -> Source:
    is_text = isinstance(processor, PreTrainedTokenizerBase)
    wanted = (
        RequestedColumn(settings.text, "text", f"{where}.text")
        if is_text
        else RequestedColumn(settings.image, "image", f"{where}.image")
    )
    return read_source(
        settings.data,
        "train",
        where=f"{where}.data",
        columns=[wanted],
        csv=settings.csv,
        allow_network=allow_network,
    )


def chosen_places(settings: PublicSettings, count: int, seed: int) -> np.ndarray:
    """Places of the examples that ``public.limit`` selects."""
    return np.sort(numpy_generator(seed, "public limit").permutation(count)[: settings.limit])
