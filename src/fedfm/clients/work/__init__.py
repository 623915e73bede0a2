"""Kinds of work that a client can be asked to do, one a file. Adding one: write its file, add its row here."""

from __future__ import annotations

from collections.abc import Sequence

from fedfm.clients.work.base import Answer, ClientTask, Work
from fedfm.clients.work.evaluate import evaluate
from fedfm.clients.work.predict import predict
from fedfm.clients.work.train import train

WORKS: dict[str, Work] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
}

TRAINING = ("train", "predict")
"""Kinds of work in which a client trains: only these change what it keeps."""


def extra_facts(work: str, metrics: Sequence[str]) -> frozenset[str]:
    """Names that `Done.extra` may have in the result of a kind of work: evaluation has metrics, other kinds nothing.

    Args:
        work: a key of `WORKS`.
        metrics: those that the recipe asks for.
    """
    return frozenset(metrics if work == "evaluate" else ())


__all__ = ["TRAINING", "WORKS", "Answer", "ClientTask", "Work", "extra_facts"]
