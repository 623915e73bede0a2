"""Keeps results on disk, under a key that derives from everything they depend on: files in general, and tables."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset

from fedfm.errors import StorageError
from fedfm.private import is_open, private, private_folder

SUM_BYTES = hashlib.sha256().digest_size
"""Bytes at the end of an entry."""

ENDINGS = (".arrow", ".tensors")
"""Of the names of entries."""

_ROWS_PER_BATCH = 1000


def cache_folder() -> Path:
    """``$FEDFM_CACHE``, else ``$XDG_CACHE_HOME/fedfm``, else ``~/.cache/fedfm``."""
    if chosen := os.environ.get("FEDFM_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedfm"


def cache_key(**parts: object) -> str:
    """sha256 (hex) of JSON-serialisable parts and the version of `datasets`, whose types are stored in the entries."""
    parts["datasets"] = datasets.__version__
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached(key: str, build: Callable[[Path], Dataset]) -> Dataset:
    """The table stored under ``key``, memory-mapped. It is built first if it is missing or damaged.

    Args:
        key: from `cache_key`.
        build: builds the table; its argument is a scratch folder that exists until the table is stored.

    Raises:
        StorageError: as for `cached_file`.
    """
    return Dataset.from_file(str(cached_file(f"{key}.arrow", lambda beside: _store(build(beside.parent), beside))))


def cached_file(name: str, write: Callable[[Path], None]) -> Path:
    """The entry of that name. It is written first if it is missing or damaged.

    An entry is what ``write`` has written, followed by its sha256, so a truncated or altered file is detected and
    written again. An entry is written to a temporary folder and then renamed, so that several processes can write the
    same entry at once.

    Args:
        name: a key, and one of the endings in `ENDINGS`.
        write: writes the content to a new file in an empty scratch folder, where it may also write others.

    Raises:
        StorageError: the cache folder cannot be written, or other users can read it and it contains other files.
    """
    path = cache_folder() / name
    with _storage_errors(path.parent):
        _keep_to_owner(path.parent)
    if not is_intact(name):
        with _storage_errors(path.parent):
            scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix="scratch-")
        with scratch as folder, quiet(), _storage_errors(path.parent):
            beside = Path(folder) / name
            write(beside)
            _append_checksum(beside)
            beside.replace(path)
    return path


def is_intact(name: str) -> bool:
    """Whether the cache has an entry of that name, and its checksum is right."""
    path = cache_folder() / name
    if not path.is_file() or path.stat().st_size <= SUM_BYTES:
        return False
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
        view[:-SUM_BYTES] as body,
    ):
        return hashlib.sha256(body).digest() == content[-SUM_BYTES:]


def table_digest(table: Dataset) -> str:
    """sha256 (hex) of the Arrow files that back the table.

    Raises:
        ValueError: the table is in memory.
    """
    if not table.cache_files:
        raise ValueError("the table is in memory, and has no files")
    whole = hashlib.sha256()
    for entry in table.cache_files:
        with Path(entry["filename"]).open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Switches off the progress bars of `datasets`, and its logging of errors that fedfm reports itself."""
    verbosity, bars = datasets.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.utils.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()


def _store(table: Dataset, path: Path) -> None:
    schema = table.features.arrow_schema  # its metadata carries the feature types
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in table.with_format("arrow").iter(_ROWS_PER_BATCH):
            writer.write_table(batch.cast(schema))


def _append_checksum(path: Path) -> None:
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").digest()
    with path.open("ab") as file:
        file.write(checksum)


def _keep_to_owner(folder: Path) -> None:
    """Creates the cache folder; removes the permissions of other users that an earlier version has left.

    Raises:
        StorageError: other users can read the folder, and it contains files that do not belong to the cache.
    """
    if not folder.exists():
        private_folder(folder)
    if not is_open(folder) or folder.stat().st_uid != os.geteuid():
        return
    entries = list(folder.iterdir())
    foreign = [entry.name for entry in entries if entry.suffix not in ENDINGS and not entry.name.startswith("scratch-")]
    if foreign:
        raise StorageError(
            f"other users can read the cache in {folder}, and the folder contains other files ({min(foreign)}); "
            f"set FEDFM_CACHE to a folder that is used only for the cache, or run `chmod 700 {folder}`"
        )
    private_folder(folder)
    for entry in entries:
        entry.chmod(0o700 if entry.is_dir() else 0o600)


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        with private():
            yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot write the cache in {folder}: {reason}; set FEDFM_CACHE to a writable folder"
        ) from error
