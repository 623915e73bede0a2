"""Proxies that a server has sent, kept on disk: what broke off goes on where it was, what is there is not sent again.

Each has a folder, named by the digest of its files' names and digests. A file is NAME.part until it is whole and what
its digest says.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from fedfm.errors import DataError, StorageError
from fedfm.records.disk import storage
from fedfm.runtimes.envelopes import File, Piece

ENDINGS = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Of files that a proxy's folder may have; none of them is code."""

KEPT = 6
"""Folders that stay, those used last: of three proxies, and of the tokenizers that came before them."""


class Downloads:
    """The folders of proxies."""

    def __init__(self, root: Path) -> None:
        """Folders in ``root``, which is made when the first comes, for this user alone."""
        self.root = root

    def receive(
        self, files: Sequence[File], pieces: Sequence[Piece], contents: Sequence[bytes]
    ) -> tuple[Path, tuple[Piece, ...]]:
        """Takes pieces of a proxy's files.

        Args:
            files: all that its folder has.
            pieces: of them; one that does not go on where the file ends is left.
            contents: of the pieces.

        Returns:
            The folder, and what is still lacking: nothing, when it is whole.

        Raises:
            DataError: a file is not allowed there, or a piece is longer than its file.
            StorageError: there is no room.
        """
        known = _by_name(files)
        folder = self.root / _digest(files)
        with storage(folder, "keep a proxy in"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.touch()
            for piece, content in zip(pieces, contents, strict=True):
                if piece.file not in known:
                    raise DataError(f"{piece.file} is no file of the proxy")
                _append(folder / f"{piece.file}.part", piece.start, content, known[piece.file])
            lacking = tuple(filter(None, (_lacking(folder, file) for file in files)))
            _check_room(folder, sum(known[piece.file].size - piece.start for piece in lacking))
            for old in sorted(self.root.iterdir(), key=lambda path: path.stat().st_mtime_ns)[:-KEPT]:
                if old != folder:
                    shutil.rmtree(old)
        return folder, lacking


def _by_name(files: Sequence[File]) -> dict[str, File]:
    for file in files:
        if not file.name.endswith(ENDINGS):
            raise DataError(f"{file.name} is not allowed in a proxy's folder (only files that end in {ENDINGS})")
    known = {file.name: file for file in files}
    if len(known) < len(files):
        raise DataError("two files of the proxy have the same name")
    return known


def _digest(files: Sequence[File]) -> str:
    """Of a folder, by its files' names and digests."""
    return hashlib.sha256(json.dumps(sorted((file.name, file.sha256) for file in files)).encode()).hexdigest()


def _append(part: Path, start: int, content: bytes, file: File) -> None:
    """Adds a piece to an unfinished file, where it goes on there."""
    held = part.stat().st_size if part.exists() else 0
    if start + len(content) > file.size:
        raise DataError(f"more of {file.name} was sent than it has")
    if start == held and not part.with_suffix("").exists():
        with part.open("ab") as unfinished:
            unfinished.write(content)


def _lacking(folder: Path, file: File) -> Piece | None:
    """What there is not of a file; what turns out not to be that file is removed."""
    whole, part = folder / file.name, folder / f"{file.name}.part"
    if not whole.exists():
        part.touch(mode=0o600)
        if (held := part.stat().st_size) < file.size:
            return Piece(file=file.name, start=held)
        part.rename(whole)
    with whole.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() == file.sha256:
            return None
    whole.unlink()
    return Piece(file=file.name, start=0)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(f"{folder} has no room for a proxy: {needed:,} bytes more, and {free:,} are free")
