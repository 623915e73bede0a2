"""Measures what clients' work takes: CPU seconds, seconds and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator

import torch

from fedfm.clients.work import Answer
from fedfm.updates import Failure, Spent


def metered(answers: Iterator[Answer], device: torch.device) -> Iterator[tuple[Answer, Spent]]:
    """Answers with what each took; the time of a shared pass is divided by the examples that each was trained on.

    Args:
        answers: each as soon as it is ready; the first of a shared pass comes after the time of all.
        device: on which clients are trained.
    """
    waiting: list[Answer] = []
    spent = Spent()
    while True:
        before = time.process_time(), time.perf_counter()
        answer = next(answers, None)
        if answer is None:
            return
        spent += Spent(time.process_time() - before[0], time.perf_counter() - before[1], peak_bytes(device))
        waiting.append(answer)
        if len(waiting) >= answer.shared:
            yield from _divided(waiting, spent)
            waiting, spent = [], Spent()


def peak_bytes(device: torch.device) -> int:
    """The largest memory that this process has had: of a GPU its tensors, else what is resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, KiB on Linux


def _divided(answers: list[Answer], spent: Spent) -> Iterator[tuple[Answer, Spent]]:
    """What a pass took, divided among its clients by examples; equally where there are none."""
    samples = [0 if isinstance(answer.update, Failure) else answer.update.facts.samples for answer in answers]
    total = sum(samples)
    for answer, each in zip(answers, samples, strict=True):
        yield answer, spent.share(each / total if total else 1 / len(answers))
