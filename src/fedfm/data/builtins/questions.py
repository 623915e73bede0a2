"""``builtin:pydoc-questions``: what things in Python's standard library do, for instruction tuning."""

from __future__ import annotations

import re

from datasets import Dataset

from fedfm.data.builtins.pydoc import pydoc
from fedfm.data.cache import cache_key, cached, table_digest

SHORTEST, LONGEST = 12, 100
"""Characters of an answer: small models learn short sentences."""


def pydoc_questions() -> Dataset:
    """Columns ``instruction`` ("What does str.split do?"), ``output`` and ``client`` (module).

    The answer is the first sentence of a docstring of ``builtin:pydoc``, if it has 12 to 100 characters and is not a
    signature. The split into training and testing is that of ``builtin:pydoc``.

    Raises:
        DataError: this Python installation has no source of its standard library.
    """
    documented = pydoc()
    key = cache_key(kind="builtin:pydoc-questions", documented=table_digest(documented), version=1)
    return cached(key, lambda scratch: _table(documented))


def _table(documented: Dataset) -> Dataset:
    answers = [first_sentence(text) for text in documented["text"]]
    first: dict[str, int] = {}  # by name, since a class in Python and its twin in C have two docstrings
    for number, (name, answer) in enumerate(zip(documented["name"], answers, strict=True)):
        if SHORTEST <= len(answer) <= LONGEST and "->" not in answer:
            first.setdefault(name, number)
    chosen = list(first.values())
    rows = documented.select(chosen)
    names = [name.removeprefix("builtins.") for name in rows["name"]]
    return Dataset.from_dict(
        {
            "instruction": [f"What does {name} do?" for name in names],
            "output": [answers[number] for number in chosen],
            "client": list(rows["client"]),
            "is_test": list(rows["is_test"]),
        }
    )


def first_sentence(text: str) -> str:
    """The first sentence of a docstring's first paragraph, on one line."""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]
