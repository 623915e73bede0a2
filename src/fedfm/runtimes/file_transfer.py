"""Files for nodes: a node is offered the digests of a folder's files, and gets pieces of those that it lacks."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fedfm.runtimes.envelopes import File, Piece

AT_ONCE = 2**26
"""Bytes of files in one envelope, at most."""


class Offer:
    """The files of a folder that belongs to this offer.

    Attributes:
        files: by name.
    """

    def __init__(self, write: Callable[[Path], object]) -> None:
        """An offer of the files that ``write`` puts into an empty folder."""
        self._folder = tempfile.TemporaryDirectory(prefix="fedfm-offer-")
        self._root = Path(self._folder.name)
        write(self._root)
        self.files = tuple(_file(path) for path in sorted(self._root.iterdir()))

    def lacking(self, pieces: Sequence[Piece]) -> int | None:
        """Bytes that a node lacks, as it asks for these pieces; None where it asks for files that are not offered."""
        sizes = {file.name: file.size for file in self.files}
        names = [piece.file for piece in pieces]
        if len(set(names)) < len(names) or any(piece.start > sizes.get(piece.file, -1) for piece in pieces):
            return None
        return sum(sizes[piece.file] - piece.start for piece in pieces)

    def read(self, pieces: Sequence[Piece]) -> list[tuple[Piece, bytes]]:
        """The pieces that a node asks for, cut to what one envelope may hold."""
        found, room = [], AT_ONCE
        for piece in pieces:
            if room <= 0:
                break
            with (self._root / piece.file).open("rb") as file:
                file.seek(piece.start)
                content = file.read(room)
            found.append((piece, content))
            room -= len(content)
        return found


def _file(path: Path) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return File(name=path.name, size=path.stat().st_size, sha256=digest)
