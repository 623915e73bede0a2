"""The folder of Flower at a server or a site: for this account and one process only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from fedfm.errors import RecipeError, StorageError
from fedfm.runtimes.flower.folder import hold


def test_it_is_for_this_account_and_one_process(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o777)
    lock = hold(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    with pytest.raises(RecipeError, match="in use by another process"):
        hold(tmp_path / "state")
    lock.release()


def test_a_folder_of_another_account_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir(mode=0o777)
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "state").stat().st_uid + 1)
    with pytest.raises(StorageError, match="belongs to another account"):
        hold(tmp_path / "state")


@pytest.mark.parametrize("name", [".lock", "secret", "superlink.log"])
def test_no_link_in_it_is_followed(name: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("dear all")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / name).symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match="a symbolic link"):
        hold(tmp_path / "state")
    assert (tmp_path / "victim").read_text() == "dear all"
