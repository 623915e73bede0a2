"""What the server checks before an update touches the model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from fedfm.params import is_finite
from fedfm.proxies.activity import activity_problem
from fedfm.updates import Instruction, Update

MAX_EXAMPLES = 2**31
"""A client that claims more training examples than this is not believed."""

MAX_SAMPLES = 2**40
"""Nor one that claims to have processed more than this in a round."""

MAX_PREDICTIONS = 2**50
"""Nor one that claims to have predicted more than this in a round."""


def screen(
    update: Update,
    instruction: Instruction,
    *,
    client: str,
    stale: bool = False,
    widths: Mapping[str, int] | None = None,
) -> str | None:
    """Why an update is refused, or None when it is sound.

    Args:
        update: what came back.
        instruction: what was sent out this round.
        client: who was asked.
        stale: whether an update may have been trained on an older version of the proxy.
        widths: neurons of each compressed FFN of the proxy, of which counts may be asked for.
    """
    if update.client != client:
        return f"it says it is from client {update.client!r}"
    if update.round != instruction.round:
        return f"it answers round {update.round}, not round {instruction.round}"
    if update.base != instruction.base:
        return f"it was computed on another base ({update.base[:12]}…, not {instruction.base[:12]}…)"
    if not 1 <= update.examples <= MAX_EXAMPLES:
        return f"it claims {update.examples} training examples"
    if not 1 <= update.steps <= update.samples <= MAX_SAMPLES:
        return f"it claims {update.steps} steps on {update.samples} samples"
    if not 0 <= update.predictions <= MAX_PREDICTIONS:
        return f"it claims {update.predictions} predictions"
    held, asked = update.proxy_version, instruction.proxy_version
    if held != asked and not (stale and 0 <= held < asked):
        return f"it was trained on version {held} of the proxy, not {asked}"
    if update.activity and not instruction.count_activity:
        return "it sent counts of neurons' use that nobody asked for"
    if instruction.count_activity and (problem := activity_problem(update.activity, widths or {})):
        return problem
    return _shape_problem(update.params, instruction.params) or _finite_problem(update)


def _shape_problem(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    if missing := sorted(expected.keys() - got.keys()):
        return f"{len(missing)} tensors are missing, first `{missing[0]}`"
    if extra := sorted(got.keys() - expected.keys()):
        return f"{len(extra)} tensors were not asked for, first `{extra[0]}`"
    for name, tensor in expected.items():
        its = got[name]
        if its.shape != tensor.shape:
            return f"tensor `{name}` has shape {list(its.shape)}, not {list(tensor.shape)}"
        if its.dtype != tensor.dtype:
            return f"tensor `{name}` is {its.dtype}, not {tensor.dtype}"
    return None


def _finite_problem(update: Update) -> str | None:
    bad = [name for name, tensor in update.params.items() if not is_finite(tensor)]
    if not bad:
        sound = math.isfinite(update.loss) or not update.predictions
        return None if sound else "its loss is not a number; try a lower local.learning_rate"
    loss = f"loss {update.loss:.4g}" if update.loss == update.loss else "loss was NaN"
    return f"non-finite values in {len(bad)} of {len(update.params)} tensors ({loss}); try a lower local.learning_rate"
