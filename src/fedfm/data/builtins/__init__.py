"""Data sets that need no download. Each is a function to a table with a column ``is_test`` that splits it 80 to 20."""

from __future__ import annotations

from collections.abc import Callable

from datasets import Dataset

from fedfm.data.builtins.digits import digits
from fedfm.data.builtins.pydoc import pydoc
from fedfm.data.builtins.topics import pydoc_topics

BUILTINS: dict[str, Callable[[], Dataset]] = {"pydoc": pydoc, "pydoc-topics": pydoc_topics, "digits": digits}

__all__ = ["BUILTINS"]
