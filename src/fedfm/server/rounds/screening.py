"""What the server checks before an update touches the model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from fedfm.clients.work import WORKS
from fedfm.params import is_finite
from fedfm.printable import line, quoted
from fedfm.spec import Spec, problem
from fedfm.untrusted import MAX_EXAMPLES
from fedfm.updates import Done, Instruction, Update
from fedfm.updates.payload import ACTIVITY

MAX_SAMPLES = 2**40
"""A client that claims to have processed more examples than this in a round is not believed."""

MAX_LOSS = torch.finfo(torch.float32).max

MAX_PREDICTIONS = 2**50
"""Nor one that claims to have predicted more than this in a round."""


def screen(
    update: Update,
    instruction: Instruction,
    expected: Mapping[str, Spec],
    *,
    client: str,
    accepts_stale: bool = False,
    figures: Collection[str] = (),
) -> str | None:
    """Why an update is refused by its facts and the spec of its groups, or None.

    Args:
        update: what came back.
        instruction: what was sent out.
        expected: spec of each group on the wire; ``activity`` is checked elsewhere.
        client: who was asked.
        accepts_stale: whether an update may have been trained on an older version of the proxy.
        figures: names that its extra facts may have.
    """
    facts = update.facts
    if facts.client != client:
        return f"it names client {quoted(facts.client)}"
    if update.round != instruction.round:
        return f"it answers round {update.round}, not round {instruction.round}"
    if update.work != instruction.work:
        return f"it answers work {quoted(update.work)}, not `{instruction.work}`"
    if update.base != instruction.base:
        return f"it was computed on another base ({line(update.base[:12])}…, not {instruction.base[:12]}…)"
    kind = WORKS[instruction.work]
    if reason := _revealed(facts) if kind.hides else _claims(facts, trains=kind.trains):
        return reason
    held, asked = facts.proxy_version, instruction.facts.proxy_version
    if held != asked and not (accepts_stale and 0 <= held < asked):
        return f"it was trained on version {held} of the proxy, not {asked}"
    for name in facts.extra:
        if name not in figures:
            return f"it sent figure {quoted(name)}, which it was not asked for"
    for group in update.groups:
        if group not in expected and group != ACTIVITY:
            return f"it sent group {quoted(group)}, which it was not asked for"
    for group, spec in expected.items():
        if reason := problem(update.groups.get(group, {}), spec):
            return reason
    return None


def value_problem(groups: Mapping[str, Mapping[str, Tensor]], facts: Done) -> str | None:
    """Why an update is refused by its values, after decoding, or None."""
    tensors = [(params, name) for group, params in groups.items() if group != ACTIVITY for name in params]
    loss = "loss was not a number" if facts.loss is None else f"loss {facts.loss:.4g}"
    end = f"of {len(tensors)} tensors ({loss}); try a lower local.learning_rate"
    infinite = vast = 0
    for params, name in tensors:
        tensor = params[name]
        if not tensor.is_floating_point() or math.isfinite(torch.linalg.vector_norm(tensor, dtype=torch.float32)):
            continue
        infinite += not is_finite(tensor)
        vast += 1
    if infinite:
        return f"non-finite values in {infinite} {end}"
    if vast:
        return f"values whose squares no float32 holds in {vast} {end}"
    if bad := [name for name, value in facts.extra.items() if abs(value) > MAX_LOSS]:
        return f"its figure {quoted(bad[0])} is larger than a float32 holds"
    if facts.predictions and not (facts.loss is not None and abs(facts.loss) <= MAX_LOSS):
        return "its loss is not a number, or not one of a float32; try a lower local.learning_rate"
    return None


def _revealed(facts: Done) -> str | None:
    """What an answer tells that should tell nothing."""
    told = facts.examples or facts.steps or facts.samples or facts.predictions or facts.loss is not None
    return "it tells counts or a loss of its client, which only a sum may" if told else None


def _claims(facts: Done, *, trains: bool) -> str | None:
    """Why counts that a client claims are not believed."""
    if not 1 <= facts.examples <= MAX_EXAMPLES:
        return f"it claims {facts.examples} training examples"
    if trains and not 1 <= facts.steps <= facts.samples <= MAX_SAMPLES:
        return f"it claims {facts.steps} steps on {facts.samples} samples"
    if not 0 <= facts.predictions <= MAX_PREDICTIONS:
        return f"it claims {facts.predictions} predictions"
    return None
