"""Spans of tagged words: which words a run of tags such as ``B-PER I-PER`` marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_TAG = re.compile(r"O|[BIES](?:-.*)?")


@dataclass(frozen=True, eq=False)
class Tags:
    """What each tag means.

    Tags of the schemes BIO and BIOES mark spans, as do those of IOB, in which a span begins with I. If any name is not
    of such a scheme (parts of speech), each word is a span of its own, of the type of its tag; a tag ``O`` marks none.

    Attributes:
        types: of spans, sorted.
        kind: index into ``types`` of each tag, int64 [tags]; -1 for ``O``.
        begins: whether a tag begins a span whatever is before it, bool [tags].
        ends: whether a tag ends its span, bool [tags].
    """

    types: tuple[str, ...]
    kind: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str]) -> Tags:
        """The meaning of tags by their names, in the order of their ids."""
        marked = all(map(_TAG.fullmatch, names)) and any(name != "O" for name in names)
        types = [None if name == "O" else _type(name) if marked else name for name in names]
        known = tuple(sorted({name for name in types if name is not None}))
        return cls(
            types=known,
            kind=np.array([-1 if name is None else known.index(name) for name in types]),
            begins=np.array([not marked or name[0] in "BS" for name in names]),
            ends=np.array([not marked or name[0] in "ES" for name in names]),
        )

    def spans(self, tags: np.ndarray, first: np.ndarray) -> np.ndarray:
        """The spans of some texts, one after the other, as seqeval finds them in its default mode.

        A span begins at a tag that says so, after ``O``, after the end of a span, and where the type changes.

        Args:
            tags: of the words, int64 [N].
            first: whether a word is the first of its text, bool [N].

        Returns:
            int64 [spans, 3]: type, first word, last word.
        """
        kind = self.kind[tags]
        inside = kind >= 0
        before = np.concatenate([[-1], kind[:-1]])
        ended = np.concatenate([[True], self.ends[tags][:-1]])
        start = inside & (self.begins[tags] | first | ended | (before != kind))
        following = np.concatenate([(start | ~inside | first)[1:], [True]])
        return np.stack([kind[start], np.flatnonzero(start), np.flatnonzero(inside & following)], axis=1)


def _type(name: str) -> str:
    """The type of a tag: what follows its first hyphen."""
    return name[1:].partition("-")[2] or "_"
