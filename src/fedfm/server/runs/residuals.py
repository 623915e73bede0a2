"""Bytes of what a rule adds to the frozen weights, before any training: who misses what is known from the cohorts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from fedfm.proxies.added_weights import extended, is_long, missed, shortened
from fedfm.proxies.base import ModelVersion
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.run_facts import RunFacts
from fedfm.updates.payload import PROXY
from fedfm.wire import stored_bytes


def residual_bytes(experiment: Experiment) -> int:
    """About the bytes of all residuals of a run to all clients, with every residual of its largest rank."""
    recipe, spec = experiment.recipe, experiment.contract.spec
    if not recipe.aggregate.merges:
        return 0
    shapes = {
        name.removesuffix(".lora_A.weight"): (spec[name.replace("lora_A", "lora_B")].shape[0], *spec[name].shape)
        for name in spec
        if name.endswith(".lora_A.weight")
    }  # module → (out, r, in)
    facts, version, holders, total = RunFacts(experiment), ModelVersion(), dict[str, int](), 0
    for number in range(1, recipe.federation.rounds + 1):
        cohort = facts.cohort(number)
        sizes = dict[int, int]()
        for client in cohort:
            since = holders.get(client, 0)
            if since not in sizes:
                lacking = {f"{PROXY}/{name}": tensor for name, tensor in missed(version, since).items()}
                sizes[since] = stored_bytes(lacking) if lacking else 0
            total += sizes[since]
            holders[client] = version.number
        version = _after(version, shapes, recipe.aggregate.residual_rank, len(cohort))
    return total


def _after(
    version: ModelVersion, shapes: Mapping[str, tuple[int, ...]], rank_of: Callable[[int, int], int], updates: int
) -> ModelVersion:
    """The version after a round, with tensors that have no values."""
    added = {}
    for module, (out, rank, into) in shapes.items():
        ranks = min(rank_of(rank, updates), out, into)
        if ranks > 0:
            added[module] = torch.empty(out, ranks, device="meta"), torch.empty(ranks, into, device="meta")
    after = extended(version, added)
    for module, (up, down) in added.items():
        if is_long(after, module):
            after = shortened(after, module, torch.empty(len(up), down.shape[1], device="meta"))
    return after
