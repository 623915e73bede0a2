"""The folder of a server's or a site's Flower: for one process at a time, and for this user alone."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from fedfm.errors import RecipeError, StorageError
from fedfm.plain_files import refuse_links


def hold(folder: Path) -> BaseFileLock:
    """Makes a folder and locks it for this process; the lock ends with the process.

    Raises:
        RecipeError: another process has locked it.
        StorageError: it cannot be made or written, belongs to another account, or contains links.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (owner := folder.stat().st_uid) != os.geteuid():
            raise StorageError(f"{folder} belongs to another account (user id {owner}): name a folder of your own")
        folder.chmod(0o700)
        refuse_links(folder, files=(".lock",), sockets=True)
        lock.acquire()
    except Timeout as error:
        reason = f"{folder} is in use by another process; stop it, or name another folder"
        raise RecipeError(reason, source="--state") from error
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror or error}") from error
    return lock
