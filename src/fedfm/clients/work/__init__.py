"""Kinds of work that a client can be asked to do, one a file. Adding one: write its file, add its row here."""

from __future__ import annotations

from fedfm.clients.work.base import Answer, Task, Work
from fedfm.clients.work.evaluate import evaluate
from fedfm.clients.work.predict import predict
from fedfm.clients.work.train import train

WORKS: dict[str, Work] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
}

__all__ = ["WORKS", "Answer", "Task", "Work"]
