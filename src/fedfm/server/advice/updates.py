"""Advice: messages take longer than training, and a stage would make them smaller."""

from __future__ import annotations

from pydantic import ValidationError

from fedfm.records import units
from fedfm.server.advice.base import Advice, PlanFacts
from fedfm.spec import empty
from fedfm.updates import UpdatePath
from fedfm.updates.stages import STAGES, Stage
from fedfm.wire import TUNABLE, stored_bytes


def updates(facts: PlanFacts) -> Advice | None:
    """Where the time of the link is known, exceeds that of training, and updates are sent as they are."""
    link, compute = facts.link_seconds, facts.compute_seconds
    if link is None or compute is None or link <= compute or facts.recipe.updates:
        return None
    smallest = smallest_stage(facts)
    if smallest is None:
        return None
    kind, share = smallest
    return Advice(
        "updates",
        f"the messages of a client's round take {units.duration(link)}, its training {units.duration(compute)}: "
        f"`updates: [{{kind: {kind}}}]` makes an update {units.share(share, 1)} of its size",
    )


def smallest_stage(facts: PlanFacts) -> tuple[str, float] | None:
    """The stage whose default settings shrink an update most, and its size as a share; None where none does."""
    spec = facts.experiment.contract.spec
    whole, found = stored_bytes(empty(spec)), dict[str, float]()
    for kind in STAGES:
        try:
            stage: Stage = STAGES[kind].model_validate({"kind": kind})
        except ValidationError:  # it has no defaults
            continue
        encoded = UpdatePath((stage,)).spec({TUNABLE: spec})[TUNABLE]
        found[kind] = stored_bytes(empty(encoded)) / whole
    best = min(found, key=lambda kind: found[kind], default=None)
    return None if best is None or found[best] >= 1 else (best, found[best])
