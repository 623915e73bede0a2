"""``builtin:pydoc-paragraphs``: first paragraphs of docstrings, with tags of words, lists of topics, and a number."""

from __future__ import annotations

import math
import re
from pathlib import Path

from datasets import Dataset

from fedfm.data.builtins.pydoc import pydoc
from fedfm.data.builtins.splitting import is_test
from fedfm.data.cache import cache_key, cached, table_digest

_TOKEN = re.compile(r"\w+|[^\w\s]")

_NAMES = {
    "CALL": re.compile(r"(?:\w+\.)*[A-Za-z_]\w*\(\)"),
    "ERROR": re.compile(r"\b(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Warning|Interrupt|Iteration)\b"),
    "DOTTED": re.compile(r"\b[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\b"),
    "CONSTANT": re.compile(r"\b(?:None|True|False|NotImplemented|[A-Z][A-Z0-9]*_[A-Z0-9_]+)\b"),
}
"""Type of a name in a text → its form; the first that matches counts."""

_TOPICS = {
    "argument": re.compile(r"\b(?:argument|parameter|keyword)s?\b", re.IGNORECASE),
    "default": re.compile(r"\bdefaults?\b", re.IGNORECASE),
    "error": re.compile(r"\b(?:raise[sd]?|errors?|exceptions?|\w+Error)\b", re.IGNORECASE),
    "example": re.compile(r">>>|\bexamples?\b|e\.g\.", re.IGNORECASE),
    "file": re.compile(r"\b(?:files?|path|director(?:y|ies)|stream)\b", re.IGNORECASE),
    "None": re.compile(r"\bNone\b"),
    "return": re.compile(r"\breturn(?:s|ed|ing)?\b", re.IGNORECASE),
    "sequence": re.compile(r"\b(?:list|tuple|sequence|iterable|iterator)s?\b", re.IGNORECASE),
    "text": re.compile(r"\b(?:str|string|character|text)s?\b", re.IGNORECASE),
}
"""Topic → what mentions it in a docstring."""


def pydoc_paragraphs() -> Dataset:
    """Columns from the docstrings of `pydoc`.

    ``text`` is the first paragraph, each once; ``tokens`` are its words and signs; ``tags`` say in BIO which of them
    are names of Python (calls, errors, dotted names, constants); ``topics`` are those that the whole docstring
    mentions; ``length`` is the binary logarithm of its number of words; ``client`` is the module.

    Raises:
        DataError: as for `pydoc`.
    """
    rows = pydoc()
    return cached(
        cache_key(kind="builtin:pydoc-paragraphs", rows=table_digest(rows), version=1),
        lambda scratch: _table(rows, scratch),
    )


def _table(rows: Dataset, scratch: Path) -> Dataset:
    columns: dict[str, list[object]] = {
        name: [] for name in ("text", "tokens", "tags", "topics", "length", "client", "is_test")
    }
    seen = set()
    for row in rows:
        paragraph = " ".join(re.split(r"\n\s*\n", row["text"])[0].split())
        if paragraph in seen:
            continue
        seen.add(paragraph)
        tokens, tags = _tagged(paragraph)
        found = {
            "text": paragraph,
            "tokens": tokens,
            "tags": tags,
            "topics": [topic for topic, form in _TOPICS.items() if form.search(row["text"])],
            "length": round(math.log2(len(row["text"].split())), 3),
            "client": row["client"],
            "is_test": is_test(paragraph),
        }
        if tokens:
            for name, value in found.items():
                columns[name].append(value)
    return Dataset.from_dict(columns)


def _tagged(text: str) -> tuple[list[str], list[str]]:
    """The words and signs of a text, and the tag of each."""
    spans: list[tuple[int, int, str]] = []
    for kind, form in _NAMES.items():
        for match in form.finditer(text):
            if all(match.end() <= start or match.start() >= end for start, end, _ in spans):
                spans.append((*match.span(), kind))
    tokens, tags = [], []
    for match in _TOKEN.finditer(text):
        tokens.append(match[0])
        own = next(((start, kind) for start, end, kind in spans if start <= match.start() < end), None)
        tags.append("O" if own is None else ("B-" if own[0] == match.start() else "I-") + own[1])
    return tokens, tags
