"""Files that only their owner can access: modes 0700 and 0600 for clients' data and state, independent of the umask."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OTHERS = 0o077
"""The permission bits of the group and of others."""

_lock = threading.Lock()
_inside = 0
_before = 0


@contextmanager
def private() -> Iterator[None]:
    """Files created inside the block, by this process or by processes that it starts, are accessible to the owner only.

    The umask is shared by all threads of a process. It is restored when the last thread has left such a block.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = os.umask(OTHERS)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                os.umask(_before)


def is_open(path: Path) -> bool:
    """Whether users other than the owner may read, change or enter a file or folder."""
    return bool(path.stat().st_mode & OTHERS)


def private_folder(folder: Path) -> None:
    """Creates a folder and its parents; if the folder exists, removes the permissions of other users.

    Raises:
        OSError: the folder cannot be created, or belongs to another user.
    """
    with private():
        folder.mkdir(parents=True, exist_ok=True)
    if is_open(folder):
        folder.chmod(0o700)
