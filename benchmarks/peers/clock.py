"""What rounds cost a process and all that descend from it: wall time, CPU time and memory, read from Linux's /proc."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from job import Job, Params

TICKS = os.sysconf("SC_CLK_TCK")


class Clock:
    """Takes the time at the end of each round.

    Attributes:
        job: whose rounds they are.
        root: the process whose family is counted.
    """

    def __init__(self, job: Job, root: int | None = None) -> None:
        self.job = job
        self.root = root or os.getpid()
        self._ends: list[tuple[float, float]] = []
        self._peak_mib = 0.0

    def lap(self) -> None:
        """A round is over."""
        self._ends.append((time.time(), cpu_seconds(self.root)))
        self._peak_mib = peak_mib(self.root)

    def report(self, adapter: Params | None, **more: Any) -> None:
        """Saves the final adapter, and prints what the rounds cost as a line of JSON.

        ``seconds`` is the median of the rounds between the first and the last, ``cpu_seconds`` their mean; where
        something is loaded late, or saved at the end, it is in none of them. ``first_seconds`` is the time from the
        start of the process to the end of the first round.

        Args:
            adapter: None where there is none.
            more: what else to print.
        """
        if adapter is not None:
            save_file({name: tensor.detach().float().contiguous() for name, tensor in adapter.items()}, self.job.output)
        walls, cpus = zip(*self._ends, strict=True)
        steady = [end - start for start, end in pairwise(walls[:-1])]
        result = {
            "seconds": statistics.median(steady),
            "cpu_seconds": (cpus[-2] - cpus[0]) / len(steady),
            "first_seconds": walls[0] - self.job.started,
            "peak_mib": self._peak_mib,
            **more,
        }
        print(json.dumps(result), flush=True)


def cpu_seconds(root: int) -> float:
    """CPU time of a family so far, that of ended and awaited children too."""
    ticks = 0
    for folder in family(root):
        with suppress(OSError):  # it has just ended
            ticks += sum(map(int, _stat(folder)[11:15]))
    return ticks / TICKS


def peak_mib(root: int) -> float:
    """Memory of a family at its peak: what each process has now, shared pages in shares, and once had more of.

    Processes that peak at different times make it an upper bound.
    """
    kib = 0
    for folder in family(root):
        with suppress(OSError):
            status = _fields(folder / "status")
            kib += _fields(folder / "smaps_rollup")["Pss"] + status["VmHWM"] - status["VmRSS"]
    return kib / 1024


def family(root: int) -> Iterator[Path]:
    """The folders in /proc of a process and of all that descend from it."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            children[int(_stat(folder)[1])].append(int(folder.name))
    waiting = [root]
    while waiting:
        process = waiting.pop()
        yield Path(f"/proc/{process}")
        waiting += children[process]


def _stat(folder: Path) -> list[str]:
    """The fields of ``stat`` from the third on, the process's state; before them is its name, which may hold spaces."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def _fields(path: Path) -> dict[str, int]:
    """Lines such as ``VmRSS: 12 kB``, in KiB."""
    lines = (line.split() for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) for words in lines}
