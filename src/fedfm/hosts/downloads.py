"""Proxies that a server has sent, kept on disk: an interrupted download resumes, a complete one is not repeated.

Each proxy has a folder, named by the digest of its files' names and digests. A file is NAME.part until it is complete
and its digest is verified.
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
"""Endings of files that a proxy's folder may have; files with other endings could be code."""

KEPT = 6
"""Number of folders to keep, the latest used: three proxies, and the tokenizers that were sent before them."""


class Downloads:
    """The folders of proxies."""

    def __init__(self, root: Path) -> None:
        """Keeps folders in ``root``, which is created at the first download with access for this user only."""
        self.root = root

    def receive(
        self, files: Sequence[File], pieces: Sequence[Piece], contents: Sequence[bytes]
    ) -> tuple[Path, tuple[Piece, ...]]:
        """Takes pieces of a proxy's files.

        Args:
            files: all files of its folder.
            pieces: of these files; a piece that does not start at the end of what is held is ignored.
            contents: of the pieces.

        Returns:
            The folder, and the pieces that are still missing; empty when it is complete.

        Raises:
            DataError: a file is not allowed there, or a piece is longer than its file.
            StorageError: the disk has too little space.
        """
        known = _by_name(files)
        folder = self.root / _digest(files)
        with storage(folder, "keep a proxy in"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.touch()
            for piece, content in zip(pieces, contents, strict=True):
                if piece.file not in known:
                    raise DataError(f"{piece.file} is not a file of the proxy")
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
    """The digest of a folder: of its files' names and digests."""
    return hashlib.sha256(json.dumps(sorted((file.name, file.sha256) for file in files)).encode()).hexdigest()


def _append(part: Path, start: int, content: bytes, file: File) -> None:
    """Appends a piece to an incomplete file, if it starts at the file's end."""
    held = part.stat().st_size if part.exists() else 0
    if start + len(content) > file.size:
        raise DataError(f"more bytes of {file.name} were sent than its size")
    if start == held and not part.with_suffix("").exists():
        with part.open("ab") as unfinished:
            unfinished.write(content)


def _lacking(folder: Path, file: File) -> Piece | None:
    """The missing piece of a file, from its first missing byte; a file with another digest is removed."""
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
        raise StorageError(
            f"{folder} has too little space for a proxy: it needs {needed:,} more bytes, {free:,} are free"
        )
