"""Plays benchmarks one after the other, each under its own name."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def play(about: str | None, scripts: Sequence[str]) -> None:
    """Prints the tables of some scripts of this folder; their measurements are kept, so a second call goes on.

    Raises:
        SystemExit: some failed; the others were played.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=scripts, default=scripts, help="play these alone")
    failed = []
    for name in parser.parse_args().only:
        print(f"\n{name}", flush=True)
        if subprocess.run([sys.executable, Path(__file__).with_name(f"{name}.py")], check=False).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
