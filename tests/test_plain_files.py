"""Folders from another person: no link is followed, and no file blocks."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fedfm.errors import StorageError
from fedfm.plain_files import open_plain, refuse_links


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run" / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "run" / "file").write_text("mine")
    (tmp_path / "run" / "deep" / "deeper" / "file").write_text("mine")
    (tmp_path / "victim").write_text("of somebody else")
    return tmp_path / "run"


def test_files_and_folders_are_taken_and_so_is_a_link_that_the_user_names(folder: Path) -> None:
    refuse_links(folder, files=["file", "absent"], folders=["deep", "absent too"])
    folder.with_name("link").symlink_to(folder)
    refuse_links(folder.with_name("link"))


@pytest.mark.parametrize("place", ["file", "new", "deep/deeper/file", "deep/deeper/new"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("link", "a symbolic link"),
        ("link to a folder", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("pipe", "a named pipe"),
        ("socket", "a socket"),
    ],
)
def test_anything_else_is_refused_at_any_depth(
    place: str, kind: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / place
    path.unlink(missing_ok=True)
    monkeypatch.chdir(path.parent)  # a socket's path is short
    match kind:
        case "link":
            path.symlink_to(folder.with_name("victim"))
        case "link to a folder":
            path.symlink_to(folder.parent, target_is_directory=True)
        case "dangling":
            path.symlink_to(folder.with_name("nothing"))
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
    with pytest.raises(StorageError, match=f"{path}' is {words}"):
        refuse_links(folder)
    if kind == "socket":
        refuse_links(folder, sockets=True)
    else:
        with pytest.raises(StorageError, match=words):
            refuse_links(folder, sockets=True)


def test_a_file_where_a_folder_belongs_and_the_other_way_round(folder: Path) -> None:
    with pytest.raises(
        StorageError, match=r"deep' is a folder, but must be a file; .*file' is a file, but must be a folder"
    ):
        refuse_links(folder, files=["deep"], folders=["file"])


def test_many_are_counted(folder: Path) -> None:
    for number in range(30):
        (folder / f"link-{number}").symlink_to("/")
    with pytest.raises(StorageError, match="and 27 more"):
        refuse_links(folder)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT])
def test_a_link_is_not_opened(flags: int, folder: Path) -> None:
    for name, target in {"link": "victim", "dangling": "nothing"}.items():
        (folder / name).symlink_to(folder.with_name(target))
        with pytest.raises(StorageError, match=f"{name} is a symbolic link"):
            open_plain(folder / name, flags)
    assert not folder.with_name("nothing").exists()


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(StorageError, match="a named pipe, not a file"):
        open_plain(folder / "pipe", os.O_RDONLY)


def test_a_file_of_two_names_is_read_and_not_written(folder: Path) -> None:
    os.link(folder.with_name("victim"), folder / "hard")
    os.close(open_plain(folder / "hard", os.O_RDONLY))
    with pytest.raises(StorageError, match="several hard links"):
        open_plain(folder / "hard", os.O_WRONLY)
    assert folder.with_name("victim").read_text() == "of somebody else"
