"""Files with data or client state are for their owner only, whatever the umask."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedfm.private import OTHERS, private, private_folder
from tests.small import small_recipe


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The most careless umask."""
    before = os.umask(0)
    yield
    os.umask(before)


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def open_to_others(folder: Path) -> list[str]:
    return [str(path) for path in (folder, *folder.rglob("*")) if path.stat().st_mode & OTHERS]


def test_the_umask_comes_back_when_the_last_thread_is_out() -> None:
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with private():
            inside.set()
            leave.wait()

    other = threading.Thread(target=stay)
    with private():
        other.start()
        inside.wait()
    assert umask() == OTHERS
    leave.set()
    other.join()
    assert umask() == 0


def test_a_folder_that_is_open_is_taken_from_others(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "new/inner"):
        private_folder(tmp_path / name)
    assert open_to_others(tmp_path / "there") == open_to_others(tmp_path / "new") == []


def test_a_runs_folder_and_the_cache_are_their_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fedfm

    monkeypatch.setenv("FEDFM_CACHE", str(tmp_path / "cache"))
    changes = {"report_to": ["tensorboard"], "federation": {"clients": 4, "rounds": 1}}
    run = fedfm.run(small_recipe(tmp_path, **changes))
    assert open_to_others(tmp_path / "cache") == open_to_others(run.folder.path) == []
    assert {"report.html", "adapter", "checkpoints", "wire.jsonl"} <= {path.name for path in run.folder.path.iterdir()}
    run.folder.path.chmod(0o755)  # as earlier versions left it
    fedfm.resume(run.folder.path, ["federation.rounds=2"])
    assert open_to_others(run.folder.path) == []
    assert umask() == 0
