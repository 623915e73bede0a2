"""``builtin:digits``: scikit-learn's 1,797 handwritten digits, 8 × 8 pixels."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value

from fedfm.data.cache import cache_key, cached
from fedfm.randomness import numpy_generator


def digits() -> Dataset:
    """Columns ``image`` (grey, 8 × 8, 0 to 255) and ``label``; every fifth of a fixed shuffle is a test example."""
    return cached(cache_key(kind="builtin:digits", sklearn=version("scikit-learn"), version=1), _build)


def _build(scratch: Path) -> Dataset:
    from sklearn.datasets import load_digits  # slow to import

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # the original values are 0 to 16
    place = numpy_generator(0, "builtin:digits").permutation(len(labels))
    columns = {"image": list(pixels), "label": labels.tolist(), "is_test": (place % 5 == 0).tolist()}
    features = {"image": Image(), "label": ClassLabel(num_classes=10), "is_test": Value("bool")}
    return Dataset.from_dict(columns, features=Features(features))
