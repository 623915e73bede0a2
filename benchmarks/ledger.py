"""Keeps each measurement as soon as it is made, so that a benchmark can be stopped and goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """The machine in a line."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {processor}, Python {platform.python_version()}, torch {version('torch')}"


def measured(benchmark: str, key: str, measure: Callable[[], Any]) -> Any:
    """The result kept under ``key``, or a new one, kept at once. Delete the file in ``results/`` to measure anew."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{benchmark}.json"
    if key not in (ledger := _kept(path))["results"]:
        result = measure()
        with _lock(f"{benchmark} results"):
            ledger = _kept(path)  # another process may have kept something meanwhile
            ledger["results"][key] = result
            beside = path.with_suffix(".partial")
            beside.write_text(json.dumps(ledger, indent=1) + "\n")
            beside.replace(path)
    return ledger["results"][key]


@contextmanager
def claimed(benchmark: str, key: str) -> Iterator[bool]:
    """Whether this process may measure something, for a block of statements: not while another one does."""
    lock = _lock(f"{benchmark} {key}")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield key not in kept(benchmark)
    finally:
        lock.release()


def digest(parts: Any) -> str:
    """Twelve letters that stand for values, which JSON must know."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def kept(benchmark: str) -> dict[str, Any]:
    """All results kept so far, by key."""
    results: dict[str, Any] = _kept(RESULTS / f"{benchmark}.json")["results"]
    return results


def measured_on(benchmark: str) -> str:
    """The machine on which the kept results were measured."""
    return str(json.loads((RESULTS / f"{benchmark}.json").read_text())["machine"])


def mean_and_deviation(values: list[float], unit: float = 1.0, digits: int = 2) -> str:
    """``mean ± sample deviation`` of values in ``unit``."""
    scaled = [value * unit for value in values]
    deviation = statistics.stdev(scaled) if len(scaled) > 1 else 0.0
    return f"{statistics.mean(scaled):.{digits}f} ± {deviation:.{digits}f}"


def _kept(path: Path) -> dict[str, Any]:
    ledger: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"machine": machine(), "results": {}}
    return ledger


def _lock(name: str) -> FileLock:
    """A lock that ends with its process."""
    folder = RESULTS / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / hashlib.sha256(name.encode()).hexdigest()[:12])


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
