"""What was read and encoded once is kept on disk, under a key that says what it was made from."""

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

_SUM_BYTES = hashlib.sha256().digest_size
_ROWS_PER_BATCH = 1000


def cache_folder() -> Path:
    """``$FEDFM_CACHE``, else ``$XDG_CACHE_HOME/fedfm``, else ``~/.cache/fedfm``."""
    if chosen := os.environ.get("FEDFM_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedfm"


def cache_key(**parts: object) -> str:
    """sha256 (hex) of JSON-able parts; includes the version of `datasets`, whose types are stored in the entries."""
    parts["datasets"] = datasets.__version__
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached(key: str, build: Callable[[Path], Dataset]) -> Dataset:
    """The table kept under ``key``, memory-mapped; built first when it is missing or damaged.

    An entry is one Arrow stream followed by its sha256, so a truncated or altered file is seen and rebuilt. Entries
    are written beside and renamed: processes that build the same one at once do not meet.

    Args:
        key: from `cache_key`.
        build: makes the table; gets a scratch folder that lives until the table is stored.

    Raises:
        StorageError: when the cache folder cannot be written.
    """
    path = cache_folder() / f"{key}.arrow"
    if not _is_intact(path):
        with _storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix="scratch-")
        with scratch as folder, quiet(), _storage_errors(path.parent):
            beside = Path(folder) / path.name
            _store(build(Path(folder)), beside)
            beside.replace(path)
    return Dataset.from_file(str(path))


def table_digest(table: Dataset) -> str:
    """sha256 (hex) of the Arrow files that back the table."""
    whole = hashlib.sha256()
    for entry in table.cache_files:
        with Path(entry["filename"]).open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps `datasets` from drawing progress bars and logging errors that we report ourselves."""
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
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").digest()
    with path.open("ab") as file:
        file.write(checksum)


def _is_intact(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size <= _SUM_BYTES:
        return False
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
        view[:-_SUM_BYTES] as body,
    ):
        return hashlib.sha256(body).digest() == content[-_SUM_BYTES:]


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot write the cache in {folder}: {reason}; set FEDFM_CACHE to a folder that can be written"
        ) from error
