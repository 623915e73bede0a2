"""Data sets without a download. Each function returns a table with a column ``is_test``, true for 20 % of the rows."""

from __future__ import annotations

from collections.abc import Callable

from datasets import Dataset

from fedfm.data.builtins.captions import digits_captions
from fedfm.data.builtins.digits import digits
from fedfm.data.builtins.paragraphs import pydoc_paragraphs
from fedfm.data.builtins.planted import planted
from fedfm.data.builtins.preferences import pydoc_preferences
from fedfm.data.builtins.pydoc import pydoc
from fedfm.data.builtins.questions import pydoc_questions
from fedfm.data.builtins.search import pydoc_search
from fedfm.data.builtins.topics import pydoc_topics

BUILTINS: dict[str, Callable[[], Dataset]] = {
    "pydoc": pydoc,
    "pydoc-paragraphs": pydoc_paragraphs,
    "pydoc-topics": pydoc_topics,
    "pydoc-questions": pydoc_questions,
    "pydoc-preferences": pydoc_preferences,
    "pydoc-search": pydoc_search,
    "digits": digits,
    "planted": planted,
    "digits-captions": digits_captions,
}

__all__ = ["BUILTINS"]
