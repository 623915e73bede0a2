"""Files for their owner only: what holds data or states of clients is 0700 and 0600, whatever the umask."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OTHERS = 0o077
"""What the group and others may do with a file."""

_lock = threading.Lock()
_inside = 0
_before = 0


@contextmanager
def private() -> Iterator[None]:
    """Lets only the owner use what is made inside the block, by this process and by those it starts.

    The umask belongs to the process: it comes back when the last of its threads has left such a block.
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
    """Whether others than the owner may read, change or enter a file or folder."""
    return bool(path.stat().st_mode & OTHERS)


def private_folder(folder: Path) -> None:
    """Makes a folder, parents included, and takes it from others where it is there already.

    Raises:
        OSError: it cannot be made, or belongs to somebody else.
    """
    with private():
        folder.mkdir(parents=True, exist_ok=True)
    if is_open(folder):
        folder.chmod(0o700)
