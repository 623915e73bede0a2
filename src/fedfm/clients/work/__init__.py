"""Kinds of work that a client can be asked to do, one a file. Adding one: write its file, add its row here."""

from __future__ import annotations

from collections.abc import Sequence

from fedfm.clients.work.base import Answer, ClientTask, Work
from fedfm.clients.work.evaluate import EVALUATE, evaluate
from fedfm.clients.work.fisher import fisher
from fedfm.clients.work.moments import MOMENTS, moments
from fedfm.clients.work.predict import predict
from fedfm.clients.work.probe import probe
from fedfm.clients.work.represent import REPRESENT, represent
from fedfm.clients.work.retrieve import RETRIEVE, retrieve
from fedfm.clients.work.secure_sum import (
    ADVERTISE,
    CONFIRM,
    MASK,
    SHARE,
    UNMASK,
    advertise_keys,
    confirm_survivors,
    share_secrets,
    train_masked,
    unmask_sum,
)
from fedfm.clients.work.seed_pool import SEED_POOL, seed_pool
from fedfm.clients.work.slopes import MEASURE_SLOPES, slopes
from fedfm.clients.work.train import train
from fedfm.clients.work.vote import VOTE, vote
from fedfm.updates.payload import FISHER
from fedfm.views.selection import PROBE

WORKS: dict[str, Work] = {
    "train": Work(train, trains=True, shares_passes=True, gets_extras=True, sends_update=True),
    EVALUATE: Work(evaluate, measures=True),
    "predict": Work(predict, trains=True),
    REPRESENT: Work(represent, trains=True),
    SEED_POOL: Work(seed_pool, trains=True),
    MEASURE_SLOPES: Work(slopes, trains=True, keeps=True),
    PROBE: Work(probe),
    FISHER: Work(fisher),
    MOMENTS: Work(moments),
    VOTE: Work(vote),
    RETRIEVE: Work(retrieve),
    ADVERTISE: Work(advertise_keys, hides=True, keeps=True),
    SHARE: Work(share_secrets, hides=True, keeps=True),
    MASK: Work(train_masked, trains=True, shares_passes=True, gets_extras=True, hides=True, keeps=True),
    CONFIRM: Work(confirm_survivors, hides=True, keeps=True),
    UNMASK: Work(unmask_sum, hides=True, keeps=True),
}


def measures(work: str) -> bool:
    """Whether a kind of work declares that its answers are figures; False for one that is not known here."""
    return work in WORKS and WORKS[work].measures


def extra_facts(work: str, metrics: Sequence[str]) -> frozenset[str]:
    """Names that `Done.extra` may have in the result of a kind of work.

    Args:
        work: a key of `WORKS`.
        metrics: those that the recipe asks for.
    """
    return frozenset(metrics if measures(work) else ())


__all__ = ["EVALUATE", "RETRIEVE", "WORKS", "Answer", "ClientTask", "Work", "extra_facts", "measures"]
