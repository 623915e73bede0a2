"""What the server checks before an update touches the model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedfm.params import is_finite
from fedfm.printable import line, quoted
from fedfm.proxies.base import ClientModel
from fedfm.untrusted import MAX_EXAMPLES
from fedfm.updates import Instruction, Update

MAX_SAMPLES = 2**40
"""A client that claims to have processed more examples than this in a round is not believed."""

MAX_LOSS = torch.finfo(torch.float32).max

MAX_PREDICTIONS = 2**50
"""Nor one that claims to have predicted more than this in a round."""


def screen(
    update: Update,
    instruction: Instruction,
    *,
    client: str,
    stale: bool = False,
    proxy: ClientModel | None = None,
) -> str | None:
    """Why an update is refused, or None when it is sound.

    Args:
        update: what came back.
        instruction: what was sent out this round.
        client: who was asked.
        stale: whether an update may have been trained on an older version of the proxy.
        proxy: the server's side of the proxy, of whose neurons counts may be asked for.
    """
    if update.client != client:
        return f"it says it is from client {quoted(update.client)}"
    if update.round != instruction.round:
        return f"it answers round {update.round}, not round {instruction.round}"
    if update.base != instruction.base:
        return f"it was computed on another base ({line(update.base[:12])}…, not {instruction.base[:12]}…)"
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
    if instruction.count_activity and proxy and (problem := proxy.activity_problem(update.activity)):
        return problem
    return _shape_problem(update.params, instruction.params) or _value_problem(update)


def _shape_problem(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    if missing := sorted(expected.keys() - got.keys()):
        return f"{len(missing)} tensors are missing, first `{missing[0]}`"
    if extra := sorted(got.keys() - expected.keys()):
        return f"{len(extra)} tensors were not asked for, first {quoted(extra[0])}"
    for name, tensor in expected.items():
        its = got[name]
        if its.shape != tensor.shape:
            return f"tensor `{name}` has shape {list(its.shape)}, not {list(tensor.shape)}"
        if its.dtype != tensor.dtype:
            return f"tensor `{name}` is {its.dtype}, not {tensor.dtype}"
    return None


def _value_problem(update: Update) -> str | None:
    loss = f"loss {update.loss:.4g}" if update.loss == update.loss else "loss was NaN"
    end = f"of {len(update.params)} tensors ({loss}); try a lower local.learning_rate"
    vast = 0
    for tensor in update.params.values():
        if math.isfinite(torch.linalg.vector_norm(tensor, dtype=torch.float32)):
            continue
        if not is_finite(tensor):
            bad = sum(not is_finite(tensor) for tensor in update.params.values())
            return f"non-finite values in {bad} {end}"
        vast += 1
    if vast:
        return f"values whose squares no float32 holds in {vast} {end}"
    if update.predictions and not abs(update.loss) <= MAX_LOSS:
        return "its loss is not a number, or not one of a float32; try a lower local.learning_rate"
    return None
