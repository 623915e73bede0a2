"""How soon fedfm answers: `fedfm run quik`, `from fedfm import run` and quick commands, beside what they rest on.

Each line is the median wall time of fresh processes, taken in turn, so that a busy machine slows all alike.

    python benchmarks/startup.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PYTHON = [sys.executable, "-c"]
FEDFM = [sys.executable, "-m", "fedfm.cli.main"]
COMMANDS = {
    "import pydantic, yaml": [*PYTHON, "import pydantic, yaml"],
    "import torch": [*PYTHON, "import torch"],
    "from fedfm import run": [*PYTHON, "from fedfm import run"],
    "from fedfm import Recipe": [*PYTHON, "from fedfm import Recipe"],
    "fedfm --help": [*FEDFM, "--help"],
    "fedfm ls": [*FEDFM, "ls"],
    "fedfm show quick": [*FEDFM, "show", "quick"],
    "fedfm run quik": [*FEDFM, "run", "quik"],
    "fedfm run quick local.epoch=3": [*FEDFM, "run", "quick", "local.epoch=3"],
    "fedfm status nowhere": [*FEDFM, "status", "nowhere"],
}


def seconds(command: list[str], folder: Path) -> float:
    """Wall time of one process."""
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return time.perf_counter() - begun


def main() -> None:
    """Prints a table, and whether the two targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for _ in range(repeats + 1):
            for name, command in COMMANDS.items():
                taken[name].append(seconds(command, Path(folder)))
    median = {name: statistics.median(values[1:]) for name, values in taken.items()}  # the first one fills caches
    for name, value in median.items():
        print(f"{name:<32} {value:6.2f} s")
    answer = median["fedfm run quik"] - median["import pydantic, yaml"]
    ratio = median["from fedfm import run"] / median["import torch"]
    print(f"\n`fedfm run quik` answers {answer:.2f} s after pydantic and yaml are imported (target: at most 0.5 s)")
    print(f"`from fedfm import run` takes {ratio:.2f} × `import torch` (target: at most 1.3)")


if __name__ == "__main__":
    main()
