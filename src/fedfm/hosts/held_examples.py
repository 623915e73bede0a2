"""The training examples of simulated clients as read, before anything in them is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source
from fedfm.models.processors import Processor


@dataclass(frozen=True)
class HeldExamples:
    """All training examples, and what is known of them.

    Attributes:
        examples: encoded.
        clients: client id → indices of those that it trains on.
        holdout: client id → indices of those that it keeps from training.
        labels: the classes.
        source: of the examples, row by row.
        encode: encodes a source as ``examples`` was.
        processor: it was encoded with.
    """

    examples: Examples
    clients: Mapping[str, np.ndarray]
    holdout: Mapping[str, np.ndarray]
    labels: LabelMap | None
    source: Source
    encode: Callable[[Source], Examples]
    processor: Processor
