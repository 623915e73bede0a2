"""The store of client state: versions of each client's state on disk.

A version has the number of the round in which the client made it; 0 is a client before its first round, which has
nothing stored. A client that takes part in round 7 reads the version of its last accepted update and writes version 7.
The new version counts once the server has folded the update in and sends `continue_from: 7`. A refused or lost update
therefore advances nothing, and a server that was killed asks again from the old version and gets the same bits.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from fedfm.errors import StorageError
from fedfm.private import private, private_folder

_VERSION = re.compile(r"(\d{9})\.safetensors", re.ASCII)


class ClientStore:
    """A folder with a folder for each client, with a file for each version that is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, client: str, version: int, *, sha256: str = "") -> bytes | None:
        """A client's state at a version; None at version 0.

        Args:
            client: client id.
            version: as `put` wrote it.
            sha256: hex digest that its bytes must have; empty: any.

        Raises:
            StorageError: it is missing or not as it was written.
        """
        if version == 0:
            return None
        path = self._path(client, version)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read the client's state {path}: {error.strerror or error}") from error
        if sha256 and hashlib.sha256(content).hexdigest() != sha256:
            raise StorageError(f"the client's state {path} does not match its sha256")
        return content

    def put(self, client: str, version: int, content: bytes) -> str:
        """Writes a version, in place of one that an attempt before may have left; its sha256 (hex).

        Raises:
            StorageError: it cannot be written; what was there is intact.
        """
        path = self._path(client, version)
        try:
            private_folder(path.parent)
            beside = path.with_suffix(".new")
            with private():
                beside.write_bytes(content)
            beside.replace(path)
        except OSError as error:
            raise StorageError(f"cannot write the client's state {path}: {error.strerror or error}") from error
        return hashlib.sha256(content).hexdigest()

    def forget_before(self, client: str, version: int) -> None:
        """Removes the versions of a client before one."""
        for path in self._path(client, 0).parent.glob("*.safetensors"):
            if (match := _VERSION.fullmatch(path.name)) and int(match[1]) < version:
                path.unlink(missing_ok=True)

    def _path(self, client: str, version: int) -> Path:
        # A client id may be any text, and a folder's name may not.
        name = hashlib.sha256(client.encode()).hexdigest()[:32]
        return self.folder / name / f"{version:09d}.safetensors"
