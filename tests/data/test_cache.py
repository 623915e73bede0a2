"""The cache builds once, notices damage, and reports where it could not write."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import numpy as np
import pytest

from fedfm.data.cache import cache_folder, cache_key, cached, quiet, table_digest
from fedfm.errors import StorageError

FEATURES = datasets.Features({"x": datasets.Value("int16"), "kind": datasets.ClassLabel(names=["cat", "dog"])})


class Builder:
    """Counts how often it builds."""

    def __init__(self) -> None:
        self.builds = 0

    def __call__(self, scratch: Path) -> datasets.Dataset:
        self.builds += 1
        assert scratch.is_dir()
        return datasets.Dataset.from_dict({"x": list(range(2500)), "kind": [0, 1] * 1250}, features=FEATURES)


def test_builds_once_and_keeps_types_and_rows(own_cache: Path) -> None:
    builder = Builder()
    first, second = cached("k", builder), cached("k", builder)
    assert builder.builds == 1
    for table in (first, second):
        assert table.features == FEATURES
        assert table["x"][:] == list(range(2500))
    assert table_digest(first) == table_digest(second)


def test_another_key_is_another_entry(own_cache: Path) -> None:
    builder = Builder()
    cached("a", builder)
    cached("b", builder)
    assert builder.builds == 2


def damages(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    return {
        "empty": b"",
        "cut off": content[:middle],
        "last byte lost": content[:-1],
        "one bit in the middle": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "one bit in the checksum": content[:-1] + bytes([content[-1] ^ 1]),
        "something else": b"not arrow",
    }


@pytest.mark.parametrize("damage", damages(b"xx"))
def test_a_damaged_entry_is_rebuilt(own_cache: Path, damage: str) -> None:
    builder = Builder()
    cached("k", builder)
    entry = own_cache / "k.arrow"
    content = entry.read_bytes()
    entry.write_bytes(damages(content)[damage])
    assert cached("k", builder)["x"][-1] == 2499
    assert builder.builds == 2
    assert entry.read_bytes() == content


def test_a_build_that_fails_leaves_nothing(own_cache: Path) -> None:
    def fail(scratch: Path) -> datasets.Dataset:
        (scratch / "half.arrow").write_bytes(b"half")
        raise KeyError("stop")

    with pytest.raises(KeyError):
        cached("k", fail)
    assert list(own_cache.iterdir()) == []


def test_a_table_with_rows_picked_out_is_stored_as_seen(own_cache: Path) -> None:
    table = cached("k", lambda scratch: Builder()(scratch).select(np.array([7, 3])))
    assert table["x"][:] == [7, 3]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_storage_error(own_cache: Path) -> None:
    own_cache.mkdir()
    own_cache.chmod(0o500)
    with pytest.raises(StorageError, match="FEDFM_CACHE"):
        cached("k", Builder())


def test_a_cache_that_was_left_open_is_taken_from_others(own_cache: Path) -> None:
    cached("one", lambda scratch: datasets.Dataset.from_dict({"a": [1]}))
    for path in (own_cache, own_cache / "one.arrow"):
        path.chmod(0o777)
    cached("one", lambda scratch: datasets.Dataset.from_dict({"a": [1]}))
    assert [path.stat().st_mode & 0o777 for path in (own_cache, own_cache / "one.arrow")] == [0o700, 0o600]


def test_an_open_folder_of_other_files_is_no_cache(own_cache: Path) -> None:
    own_cache.mkdir(mode=0o755)
    (own_cache / "letter.txt").touch()
    with pytest.raises(StorageError, match=r"other users can read the cache .* other files \(letter\.txt\)"):
        cached("one", lambda scratch: datasets.Dataset.from_dict({"a": [1]}))
    assert own_cache.stat().st_mode & 0o777 == 0o755
    own_cache.chmod(0o700)
    assert len(cached("one", lambda scratch: datasets.Dataset.from_dict({"a": [1]}))) == 1


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDFM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match=r"cannot write the cache in .*file/cache: Not a directory.*FEDFM_CACHE"):
        cached("k", Builder())


def test_a_disk_that_fills_up_is_a_storage_error(own_cache: Path) -> None:
    def fill(scratch: Path) -> datasets.Dataset:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        cached("k", fill)


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDFM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("FEDFM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "fedfm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fedfm"


def test_keys_depend_on_every_part_but_not_on_their_order() -> None:
    assert cache_key(a=1, b="x") == cache_key(b="x", a=1)
    assert len({cache_key(a=1), cache_key(a=2), cache_key(b=1), cache_key(a="1")}) == 4


def test_quiet_restores_what_was_set() -> None:
    before = datasets.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    with quiet():
        assert datasets.are_progress_bars_disabled()
    assert (datasets.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == before
