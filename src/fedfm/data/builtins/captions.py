"""``builtin:digits-captions``: scikit-learn's handwritten digits, each with two captions in words."""

from __future__ import annotations

import numpy as np
from datasets import Dataset, Features, Image, List, Value

from fedfm.data.builtins.digits import digits
from fedfm.data.cache import cache_key, cached, table_digest

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STROKES = ("thin", "plain", "bold")
WIDTHS = ("narrow", "wide")
_INK = 128
"""A pixel with this value or more is part of a digit's width."""


def digits_captions() -> Dataset:
    """Columns ``image`` (as ``builtin:digits``), ``captions`` (two texts), and ``label`` (the digit in words).

    A caption names the digit, its strokes (by its mean ink: a third of the digits each) and its width (by the columns
    with ink: about a half each), such as "a bold, wide seven" and "seven, wide and bold": 60 descriptions in 120 texts.
    """
    table = digits()
    key = cache_key(kind="builtin:digits-captions", digits=table_digest(table), version=1)
    return cached(key, lambda scratch: _build(table))


def _build(table: Dataset) -> Dataset:
    pixels = np.stack([np.asarray(image) for image in table["image"]])
    ink = pixels.mean((1, 2))
    strokes = np.digitize(ink, np.quantile(ink, [1 / 3, 2 / 3]))
    columns = (pixels >= _INK).any(1).sum(1)
    wide = columns > np.median(columns)
    captions, labels = [], []
    for digit, stroke, width in zip(table["label"], strokes, wide, strict=True):
        words = (STROKES[stroke], WIDTHS[int(width)], NAMES[digit])
        captions.append(["a {}, {} {}".format(*words), "{2}, {1} and {0}".format(*words)])
        labels.append(NAMES[digit])
    features = {
        "image": Image(),
        "captions": List(Value("string")),
        "label": Value("string"),
        "is_test": Value("bool"),
    }
    rows = {"image": list(pixels), "captions": captions, "label": labels, "is_test": list(table["is_test"])}
    return Dataset.from_dict(rows, features=Features(features))
