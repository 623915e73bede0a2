"""Benchmarks start, and use only the public API of fedfm."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest

from tests.started import finish

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.rglob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
HELPS = [path for path in SCRIPTS if "argparse" in path.read_text(encoding="utf-8")]
INSIDE = ("fedfm.server", "fedfm.hosts", "fedfm.sites")
ELSEWHERE = {"with_pfl.py"}
"""Scripts for an environment of their own, which has other packages."""


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: path.name)
def test_a_benchmark_imports_no_room_behind_the_public_functions(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert [module for module in modules if module.startswith(INSIDE)] == []


def _start(path: str, helps: bool) -> None:
    sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers")]
    sys.argv = [path, "--help"]
    runpy.run_path(path, run_name="__main__" if helps else "imported")


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path.name not in ELSEWHERE], ids=lambda path: path.name)
def test_a_benchmark_starts(path: Path) -> None:
    helps = path in HELPS
    finished = finish(_start, str(path), helps)
    assert finished.code == 0, finished.errors
    assert ("usage:" in finished.output) == helps
