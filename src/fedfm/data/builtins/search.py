"""``builtin:pydoc-search``: questions about things in Python's standard library, and the passages that answer them."""

from __future__ import annotations

import re

from datasets import Dataset

from fedfm.data.builtins.pydoc import pydoc
from fedfm.data.cache import cache_key, cached, table_digest


def pydoc_search() -> Dataset:
    """Columns ``question`` ("What does walk of email message Message do?"), ``passage`` and ``client`` (module).

    A passage is a docstring of ``builtin:pydoc``, whole. Its name is in the question as words, so that no search for a
    dotted name finds it. Of things with the same name, the first counts. The split into training and testing is that of
    ``builtin:pydoc``.

    Raises:
        DataError: this Python installation has no source of its standard library.
    """
    documented = pydoc()
    key = cache_key(kind="builtin:pydoc-search", documented=table_digest(documented), version=1)
    return cached(key, lambda scratch: _table(documented))


def _table(documented: Dataset) -> Dataset:
    first: dict[str, int] = {}
    for number, name in enumerate(documented["name"]):
        first.setdefault(name, number)
    rows = documented.select(list(first.values()))
    return Dataset.from_dict(
        {
            "question": [question(name) for name in rows["name"]],
            "passage": list(rows["text"]),
            "client": list(rows["client"]),
            "is_test": list(rows["is_test"]),
        }
    )


def question(name: str) -> str:
    """What a dotted name asks for, in words: ``str.splitLines`` → "What does split lines of str do?"."""
    *owners, last = name.removeprefix("builtins.").split(".")
    of = f" of {' '.join(map(_words, owners))}" if owners else ""
    return f"What does {_words(last)}{of} do?"


def _words(name: str) -> str:
    """An identifier as words: at underscores, and where a small letter meets a capital one."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ")).strip()
