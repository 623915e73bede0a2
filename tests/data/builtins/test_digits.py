"""Scikit-learn's digits as images."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from fedfm.data.labels import LabelMap
from fedfm.data.sources import read_source


def test_every_digit_is_in_one_part_and_exact() -> None:
    train = read_source("builtin:digits", "train", where="data.train")
    test = read_source("builtin:digits", "test", where="data.test")
    images, labels = load_digits(return_X_y=True)
    assert (len(train), len(test)) == (1437, 360)
    seen = sorted(
        (label, np.asarray(image).tobytes())
        for part in (train, test)
        for image, label in zip(part.table["image"], part.table["label"], strict=True)
    )
    scaled = np.rint(images * 255 / 16).astype(np.uint8)
    assert seen == sorted((label, image.tobytes()) for image, label in zip(scaled, labels.tolist(), strict=True))


def test_classes_are_the_digits_in_both_parts() -> None:
    for split in ("train", "test"):
        source = read_source("builtin:digits", split, where="data.train")
        assert LabelMap.from_source(source, "label").names == tuple("0123456789")
        assert set(np.bincount(source.table["label"][:]) > 20) == {True}
