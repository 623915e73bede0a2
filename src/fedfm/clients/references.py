"""What a task compares its model with: values of the examples under the model before round 1."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fedfm.clients.evaluation import Evaluator
from fedfm.data.examples import Examples
from fedfm.params import Params


def with_references(
    evaluator: Evaluator, examples: Examples, start: Params, sets: Iterable[np.ndarray] | None = None
) -> Examples:
    """The examples with `Examples.reference`; unchanged for a task that compares with nothing.

    The frozen weights must be those before round 1 too: call it before the first round, and before a run is continued.

    Args:
        evaluator: of the model; its tunable has its present values again afterwards.
        examples: N of them.
        start: values of the tunable before round 1.
        sets: int64 [n] each, examples that share passes, one set a client: a client at a site then has the bits that it
            has in a simulation. None: all examples.
    """
    if not evaluator.task.compares:
        return examples
    tunable, values = evaluator.tunable, np.full(len(examples), np.nan, dtype=np.float32)
    present = tunable.read()
    tunable.write(start)
    for indices in [np.arange(len(examples))] if sets is None else sets:
        values[indices] = evaluator.compared(examples, indices)
    tunable.write(present)
    return replace(examples, reference=values)
