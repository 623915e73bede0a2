"""Proxies on a site's disk: complete or continued, and never a file that was not announced."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fedfm.errors import DataError, StorageError
from fedfm.hosts.downloads import KEPT, Downloads
from fedfm.runtimes.envelopes import File, Piece
from fedfm.runtimes.file_transfer import Offer

CONTENT = {"config.json": b"{}", "empty.txt": b"", "model.safetensors": b"0123456789"}


def described(name: str, content: bytes) -> File:
    return File(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


FILES = tuple(described(*item) for item in CONTENT.items())


def put(downloads: Downloads, *pieces: tuple[str, int, bytes]) -> tuple[Path, tuple[Piece, ...]]:
    wanted = [Piece(file=name, start=start) for name, start, _ in pieces]
    return downloads.receive(FILES, wanted, [content for _, _, content in pieces])


def test_what_is_offered_arrives(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        for name, content in CONTENT.items():
            (folder / name).write_bytes(content)

    offer, downloads = Offer(write), Downloads(tmp_path)
    _, lacking = downloads.receive(offer.files, (), ())
    assert {piece.file for piece in lacking} == {"config.json", "model.safetensors"}
    assert offer.lacking(lacking) == 12
    pieces, contents = zip(*offer.read(lacking), strict=True)
    folder, lacking = downloads.receive(offer.files, pieces, contents)
    assert not lacking
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


def test_what_broke_off_goes_on_in_another_process(tmp_path: Path) -> None:
    put(Downloads(tmp_path), ("model.safetensors", 0, b"0123"))
    _, lacking = put(Downloads(tmp_path), ("config.json", 0, b"{}"))
    assert lacking == (Piece(file="model.safetensors", start=4),)
    assert put(Downloads(tmp_path), ("model.safetensors", 4, b"456789"))[1] == ()
    assert put(Downloads(tmp_path))[1] == ()  # it is there, and not wanted again


def test_pieces_that_do_not_go_on_are_left(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path)
    put(downloads, ("config.json", 0, b"{}"), ("model.safetensors", 0, b"0123"))
    _, lacking = put(downloads, ("model.safetensors", 0, b"0123"), ("model.safetensors", 6, b"67"))
    assert lacking == (Piece(file="model.safetensors", start=4),)


def test_another_file_than_was_announced_is_not_kept(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path)
    folder, lacking = put(downloads, ("config.json", 0, b"[]"), ("model.safetensors", 0, CONTENT["model.safetensors"]))
    assert lacking == (Piece(file="config.json", start=0),)
    (folder / "model.safetensors").write_bytes(b"damaged on disk")
    assert put(downloads)[1] == (Piece(file="config.json", start=0), Piece(file="model.safetensors", start=0))
    with pytest.raises(DataError, match="were sent than its size"):
        put(downloads, ("config.json", 0, b"{}}"))
    with pytest.raises(DataError, match="not a file of the proxy"):
        put(downloads, ("other.json", 0, b"{}"))


@pytest.mark.parametrize("name", ["code.py", "weights.bin", "json", "model.safetensors.part"])
def test_names_that_are_not_allowed_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not allowed in a proxy's folder"):
        Downloads(tmp_path).receive([described(name, b"{}")], (), ())
    assert not list(tmp_path.iterdir())


def test_a_name_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="same name"):
        Downloads(tmp_path).receive([FILES[0], FILES[0]], (), ())


def test_a_proxy_for_which_there_is_no_room_is_not_begun(tmp_path: Path) -> None:
    huge = File(name="model.safetensors", size=2**60, sha256="0" * 64)
    with pytest.raises(StorageError, match="too little space for a proxy"):
        Downloads(tmp_path).receive([huge], (), ())


def test_the_proxies_used_last_stay(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path)
    folders = [downloads.receive([described("a.json", bytes([n]))], (), ())[0] for n in range(KEPT + 2)]
    assert sorted(tmp_path.iterdir()) == sorted(folders[-KEPT:])
