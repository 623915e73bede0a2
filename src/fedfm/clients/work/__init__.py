"""Kinds of work that a client can be asked to do, one a file. Adding one: write its file, add its row here."""

from __future__ import annotations

from fedfm.clients.work.base import Answer, ClientTask, Work
from fedfm.clients.work.evaluate import evaluate
from fedfm.clients.work.train import train

WORKS: dict[str, Work] = {
    "train": train,
    "evaluate": evaluate,
}

__all__ = ["WORKS", "Answer", "ClientTask", "Work"]
