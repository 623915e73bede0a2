"""A forked process has its imports already, and its own state."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from tests.started import PRELOADED, finish


def print_imported() -> None:
    print(*sorted(sys.modules.keys() & set(PRELOADED)), os.environ["COLOUR"], Path.cwd(), torch.get_num_threads())
    raise SystemExit(7)


def test_it_has_its_imports_its_environment_and_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flwr", reason="needs the extra `flower`")
    monkeypatch.setenv("COLOUR", "green")
    monkeypatch.delenv("OMP_NUM_THREADS")
    done = finish(print_imported, folder=tmp_path)
    assert done.output.split() == [*sorted(PRELOADED), "green", str(tmp_path), "1"]
    assert done.code == 7
