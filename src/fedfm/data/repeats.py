"""Finds examples that occur more than once: within a split, or in two splits, which makes scores too optimistic."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fedfm.data.columns import text_column
from fedfm.data.image_files import images_of
from fedfm.data.lists import is_list, list_column
from fedfm.data.sources import Source

_TESTED_FIRST = ("test", "validation", "train")
"""Of two splits that share examples, the scores of the first are unreliable."""


@dataclass(frozen=True)
class Repeats:
    """Examples of a split whose input also occurs elsewhere.

    Attributes:
        split: ``train``, ``validation`` or ``test``.
        other: the split in which they also occur; equal to ``split`` for repeats within a split.
        examples: number of repeated examples of ``split``.
        total: number of examples of ``split``.
        first: the first repeated example and the example that it repeats: file or row, for messages.
    """

    split: str
    other: str
    examples: int
    total: int
    first: tuple[str, str]

    def describe(self) -> str:
        """A warning in one sentence."""
        names = {"train": "training"}
        count = f"{self.examples:,} of {self.total:,} {names.get(self.split, self.split)} examples"
        example = f"(first: {self.first[0]} is the same as {self.first[1]})"
        if self.split == self.other:
            return f"{count} repeat another example {example}"
        other = names.get(self.other, self.other)
        return f"{count} also occur in the {other} data {example}; scores on them say nothing about new examples"


def find_repeats(sources: Mapping[str, Source], columns: Sequence[str]) -> Iterator[Repeats]:
    """Yields the repeats between splits, then the repeats within each split.

    Two examples are equal if all ``columns`` are: texts without white space at their ends, and the files of images.

    Args:
        sources: split → its examples.
        columns: the columns that the model reads: text columns, or one image column.

    Raises:
        RecipeError: a column is missing or has another type.
    """
    prints = {split: _fingerprints(sources[split], columns) for split in _TESTED_FIRST if split in sources}
    for split, other in combinations(prints, 2):
        known, found = np.unique(prints[other], return_index=True)
        place = np.searchsorted(known, prints[split]).clip(max=len(known) - 1)
        shared = np.flatnonzero(known[place] == prints[split])
        if len(shared):
            first = _place(sources[split], columns, shared[0]), _place(sources[other], columns, found[place[shared[0]]])
            yield Repeats(split, other, len(shared), len(prints[split]), first)
    for split, own in prints.items():
        _, found, inverse = np.unique(own, return_index=True, return_inverse=True)
        again = np.flatnonzero(found[inverse] != np.arange(len(own)))
        if len(again):
            first = _place(sources[split], columns, again[0]), _place(sources[split], columns, found[inverse[again[0]]])
            yield Repeats(split, split, len(again), len(own), first)


def _fingerprints(source: Source, columns: Sequence[str]) -> np.ndarray:
    """64 bits of a digest of each example's input, uint64 [N].

    Among 10⁷ different examples, the probability that two have the same 64 bits is 3·10⁻⁶.
    """
    if source.images is not None:
        return np.frombuffer(source.images.tobytes(), dtype=np.uint64).reshape(len(source), -1)[:, 0]
    texts = zip(*(_texts(source, column) for column in columns), strict=True)
    return np.frombuffer(b"".join(map(_digest, texts)), dtype=np.uint64)


def _texts(source: Source, column: str) -> list[str]:
    if is_list(source.table.features.get(column)):
        return [" ".join(words) for words in list_column(source, column, "data.text")]
    return text_column(source, column, "data.text")


def _digest(parts: Sequence[str]) -> bytes:
    return hashlib.blake2b(repr([part.strip() for part in parts]).encode(), digest_size=8).digest()


def _place(source: Source, columns: Sequence[str], index: int) -> str:
    """The row or file of an example."""
    if source.images is not None:
        return next(images_of(source, columns[0], [int(index)])).name
    return f"row {source.row_number(int(index))} of {source.file_of(int(index))}"
