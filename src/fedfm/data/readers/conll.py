"""Reads files in the CoNLL format: a word and its tag on each line, and a blank line after each sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from fedfm.data.readers.request import ReadRequest
from fedfm.data.readers.rows import text_table
from fedfm.data.readers.text_files import lines
from fedfm.errors import DataError

COLUMNS = ("tokens", "tags")
"""Columns of the table: lists of words, and of their tags, as JSON."""

_DOCUMENT = "-DOCSTART-"


def read_conll(path: Path, scratch: Path, request: ReadRequest) -> Dataset:
    """One row per sentence: the first field of each line is the word, the last field its tag.

    Lines that begin a document (``-DOCSTART-``) are left out.

    Raises:
        RecipeError: a column other than `COLUMNS` is requested.
        DataError: a line has fewer than two fields; with its number.
    """
    names = [column.name for column in request.present(COLUMNS, path)]
    places = [COLUMNS.index(name) for name in names]
    rows = ([json.dumps(sentence[place], ensure_ascii=False) for place in places] for sentence in _sentences(path))
    return text_table(names, rows, scratch, path)


def _sentences(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate(lines(path), start=1):
        fields = line.split()
        if fields and fields[0] == _DOCUMENT:
            continue
        if not fields:
            if words:
                yield words, tags
                words, tags = [], []
            continue
        if len(fields) < 2:
            raise DataError(f"{path}:{number}: has the word {fields[0]!r} without a tag; separate the two by a space")
        words.append(fields[0])
        tags.append(fields[-1])
    if words:
        yield words, tags
