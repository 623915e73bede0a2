"""Attackers among simulated clients: their updates are replaced where the server has decoded them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import torch

from fedfm.clients.attackers import Attack, HonestUpdates
from fedfm.protocols import ClientUpdate
from fedfm.randomness import numpy_generator
from fedfm.spec import Spec
from fedfm.views import narrow
from fedfm.wire import TUNABLE


def attacked(
    updates: Iterator[ClientUpdate], attack: Attack, attackers: Collection[str], spec: Spec, *, seed: int, number: int
) -> Iterator[ClientUpdate]:
    """The updates of a round with those of the attackers forged; where attackers collude, theirs come last.

    Colluders without an honest client in the round send zeros.

    Args:
        updates: sound ones, in order.
        attack: what the attackers do.
        attackers: ids of hostile clients.
        spec: of the tunable.
        seed: the run's.
        number: the round's.
    """
    honest, waiting = HonestUpdates(spec), list[ClientUpdate]()
    for update in updates:
        tunable = update.groups[TUNABLE]
        if update.client not in attackers:
            if attack.colludes:
                honest.add(tunable, update.slices, update.contribution.copies)
            yield update
        elif attack.colludes:
            waiting.append(replace(update, groups={**update.groups, TUNABLE: {}}))
        else:
            generator = numpy_generator(seed, "attack", round=number, client=update.client)
            yield replace(update, groups={**update.groups, TUNABLE: dict(attack.forge(tunable, generator))})
    if not waiting:
        return
    copies = sum(update.contribution.copies for update in waiting)
    nothing = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in spec.items()}
    sent = attack.collude(honest, copies) if len(honest) else nothing
    for update in waiting:
        yield replace(update, groups={**update.groups, TUNABLE: narrow(sent, update.slices)})
