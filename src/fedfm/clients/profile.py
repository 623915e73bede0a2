"""The time of local training by phase, recorded only while a profile is active."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

PHASES = ("data", "forward", "backward", "optimizer")
"""What local training consists of."""


@dataclass
class Profile:
    """Totals of local training.

    Attributes:
        seconds: phase → wall time in it, added up over processes.
        tokens: real tokens of the examples trained on, padding not counted; images count one each.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    tokens: int = 0

    def add(self, other: Mapping[str, Any]) -> None:
        """Adds the record of another process."""
        for phase, seconds in other["seconds"].items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        self.tokens += other["tokens"]

    def record(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {"seconds": dict(self.seconds), "tokens": self.tokens}

    def go_back_to(self, record: Mapping[str, Any]) -> None:
        """Removes everything that was added since `record` returned this."""
        self.seconds, self.tokens = dict(record["seconds"]), record["tokens"]

    def take(self) -> dict[str, Any]:
        """What was booked since the last time, as JSON."""
        taken = self.record()
        self.seconds, self.tokens = dict.fromkeys(PHASES, 0.0), 0
        return taken


_current: ContextVar[Profile | None] = ContextVar("profile", default=None)


@contextmanager
def profiling(profile: Profile | None) -> Iterator[None]:
    """Records the phases of a block of statements in a profile; None: records nothing."""
    token = _current.set(profile)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Records the time of a block of statements, if a profile is active."""
    profile = _current.get()
    if profile is None:
        yield
        return
    start = _now()
    try:
        yield
    finally:
        profile.seconds[name] += _now() - start


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def gemm_peak(rows: int, inner: int, outer: int, dtype: torch.dtype, device: torch.device, threads: int) -> float:
    """Operations a second of this machine's matrix product ``[rows, inner] · [inner, outer]``, the best of twenty."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = torch.ones(rows, inner, dtype=dtype, device=device)
        weight = torch.ones(outer, inner, dtype=dtype, device=device)
        return 2.0 * rows * inner * outer / min(_timed(x, weight) for _ in range(20))
    finally:
        torch.set_num_threads(before)


def _timed(x: Tensor, weight: Tensor) -> float:
    start = _now()
    torch.nn.functional.linear(x, weight)
    return _now() - start
