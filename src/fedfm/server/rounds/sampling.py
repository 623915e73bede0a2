"""The cohort: which clients take part in a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from fedfm.randomness import numpy_generator


def sample_cohort(
    sizes: Mapping[str, int],
    per_round: float,
    *,
    sampling: str,
    seed: int,
    round: int,  # noqa: A002 - the field's word
) -> dict[str, int]:
    """The clients of one round: id → how often it was drawn, in sorted order of ids.

    Args:
        sizes: client id → training examples.
        per_round: clients a round, m: a whole number, but for ``poisson``, where it is the expected number.
        sampling: ``uniform``: m different clients, each equally likely; ``poisson``: each client independently with
            probability m/N, so a cohort may be empty; ``weighted``: m draws with replacement in proportion to the
            clients' sizes (Li et al., arXiv:1907.02189, scheme I), so a client can be drawn more than once;
            ``cyclic``: the next m in an order that is drawn once, so that ⌊N/m⌋ rounds lie between a client's turns.
        seed: the run's seed.
        round: 1-based round.
    """
    clients = sorted(sizes)
    generator = numpy_generator(seed, "cohort", round=0 if sampling == "cyclic" else round)
    if sampling == "cyclic":
        turn = np.arange(int(per_round)) + (round - 1) * int(per_round)
        drawn = generator.permutation(len(clients))[turn % len(clients)]
    elif sampling == "uniform":
        drawn = generator.choice(len(clients), size=int(per_round), replace=False)
    elif sampling == "poisson":
        drawn = np.flatnonzero(generator.random(len(clients)) < per_round / len(clients))
    else:
        weights = np.array([sizes[client] for client in clients], dtype=np.float64)
        drawn = generator.choice(len(clients), size=int(per_round), replace=True, p=weights / weights.sum())
    copies = Counter(int(index) for index in drawn)
    return {clients[index]: copies[index] for index in sorted(copies)}
