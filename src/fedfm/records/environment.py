"""Versions and hardware of a run. Nothing in it names a person, a host or a path."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedfm import __version__
from fedfm.records.jsonl import Record

PACKAGES = ("torch", "transformers", "peft", "datasets", "tokenizers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Versions of fedfm, Python and the packages on which the result depends; absent packages are left out."""
    found = {"fedfm": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def environment() -> Record:
    """The content of env.json: versions, platform, cpu, memory_bytes (null where unknown), gpus, threads."""
    import torch  # records are read without torch

    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": {"model": _cpu_model(), "count": cpu_count()},
        "memory_bytes": _memory_bytes(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
    }


def _cpu_model() -> str:
    """The name of the processor where the system gives it (Linux), else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def cpu_count() -> int:
    """The number of processors that this process may use, by its affinity and the quota of its container."""
    from joblib import cpu_count as processors  # noqa: TID251 - reads nothing

    return int(processors())


def _memory_bytes() -> int | None:
    """Physical memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
