"""Examples that occur more than once: within a split, or in two of them, where scores no longer speak of new data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fedfm.data.columns import text_column
from fedfm.data.image_files import images_of
from fedfm.data.sources import Source

_TESTED_FIRST = ("test", "validation", "train")
"""Of two splits that share examples, the first is the one whose scores suffer."""


@dataclass(frozen=True)
class Repeats:
    """Examples of a split whose input stands elsewhere, too.

    Attributes:
        split: ``train``, ``validation`` or ``test``.
        other: the split that has them as well; the same one for repeats within a split.
        examples: of ``split`` that are repeats.
        total: examples of ``split``.
        first: the first of them, and what it repeats: file or row, for messages.
    """

    split: str
    other: str
    examples: int
    total: int
    first: tuple[str, str]

    def describe(self) -> str:
        """One sentence."""
        names = {"train": "training"}
        count = f"{self.examples:,} of {self.total:,} {names.get(self.split, self.split)} examples"
        example = f"(first: {self.first[0]} is the same as {self.first[1]})"
        if self.split == self.other:
            return f"{count} repeat another one {example}"
        other = names.get(self.other, self.other)
        return f"{count} also stand in the {other} data {example}; scores on them say nothing about new examples"


def find_repeats(sources: Mapping[str, Source], columns: Sequence[str]) -> Iterator[Repeats]:
    """What splits share, then what is repeated within each.

    Two examples are the same where all ``columns`` are: texts but for white space around them, images file for file.

    Args:
        sources: split → its examples.
        columns: what a model reads: text columns, or one of images.

    Raises:
        RecipeError: a column is missing, or holds something else.
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
    """64 bits of a digest of each example's input, uint64 [N]; among 10⁷ different examples, two agree by chance in
    3 cases of 10⁶.
    """
    if source.images is not None:
        return np.frombuffer(source.images.tobytes(), dtype=np.uint64).reshape(len(source), -1)[:, 0]
    texts = zip(*(text_column(source, column, "data.text") for column in columns), strict=True)
    return np.frombuffer(b"".join(map(_digest, texts)), dtype=np.uint64)


def _digest(parts: Sequence[str]) -> bytes:
    return hashlib.blake2b(repr([part.strip() for part in parts]).encode(), digest_size=8).digest()


def _place(source: Source, columns: Sequence[str], index: int) -> str:
    """Where an example stands."""
    if source.images is not None:
        return next(images_of(source, columns[0], [int(index)])).name
    return f"row {source.row_number(int(index))} of {source.file_of(int(index))}"
