"""``builtin:pydoc-topics``: the running Python's language reference as plain text, for language modelling."""

from __future__ import annotations

import sys
from pathlib import Path

from datasets import Dataset

from fedfm.data.builtins.splitting import is_test
from fedfm.data.cache import cache_key, cached
from fedfm.errors import DataError


def pydoc_topics() -> Dataset:
    """Columns ``text`` and ``client``, the topic of ``help()`` (``assignment``, ``yield``, …): one document per topic.

    Raises:
        DataError: this Python installation has no `pydoc_data`.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError("builtin:pydoc-topics needs `pydoc_data`, which this Python does not have") from error
    names = sorted(topics)

    def build(scratch: Path) -> Dataset:
        tests = [is_test(name) for name in names]
        return Dataset.from_dict({"text": [topics[name] for name in names], "client": names, "is_test": tests})

    return cached(cache_key(kind="builtin:pydoc-topics", topics=topics, python=sys.version, version=1), build)
