"""``builtin:pydoc-preferences``: what things in Python's standard library do, with a right and a wrong answer."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from fedfm.data.builtins.questions import pydoc_questions
from fedfm.data.cache import cache_key, cached, table_digest


def pydoc_preferences() -> Dataset:
    """Columns ``prompt`` ("What does str.split do?"), ``chosen``, ``rejected`` and ``client`` (module).

    The chosen answer is that of ``builtin:pydoc-questions``, the rejected one that of another question of the same
    split, half the split further on, or the next one where these are equal.

    Raises:
        DataError: this Python installation has no source of its standard library.
    """
    asked = pydoc_questions()
    key = cache_key(kind="builtin:pydoc-preferences", asked=table_digest(asked), version=1)
    return cached(key, lambda scratch: _table(asked))


def _table(asked: Dataset) -> Dataset:
    answers, is_test = list(asked["output"]), np.asarray(asked["is_test"])
    rejected = [""] * len(asked)
    for part in (np.flatnonzero(is_test), np.flatnonzero(~is_test)):
        for place, number in enumerate(part):
            others = (answers[part[(place + len(part) // 2 + step) % len(part)]] for step in range(len(part)))
            rejected[number] = next(answer for answer in others if answer != answers[number])
    return Dataset.from_dict(
        {
            "prompt": list(asked["instruction"]),
            "chosen": answers,
            "rejected": rejected,
            "client": list(asked["client"]),
            "is_test": is_test,
        }
    )
