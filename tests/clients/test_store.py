"""Versions of clients' state on disk."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from fedfm.clients.store import ClientStore
from fedfm.errors import StorageError


@pytest.fixture
def store(tmp_path: Path) -> ClientStore:
    return ClientStore(tmp_path / "state")


def test_each_client_has_versions(store: ClientStore) -> None:
    assert store.put("a", 3, b"three") == hashlib.sha256(b"three").hexdigest()
    store.put("a", 7, b"seven")
    store.put("b", 3, b"other")
    assert (store.get("a", 3), store.get("a", 7), store.get("b", 3)) == (b"three", b"seven", b"other")


def test_version_zero_is_nothing(store: ClientStore) -> None:
    assert store.get("a", 0) is None


def test_a_missing_version_is_an_error_that_names_the_file(store: ClientStore) -> None:
    store.put("a", 3, b"three")
    with pytest.raises(StorageError, match=r"000000004\.safetensors: No such file"):
        store.get("a", 4)


def test_a_digest_must_match(store: ClientStore) -> None:
    digest = store.put("a", 3, b"three")
    assert store.get("a", 3, sha256=digest) == b"three"
    next(store.folder.rglob("*.safetensors")).write_bytes(b"thref")
    with pytest.raises(StorageError, match="does not match its sha256"):
        store.get("a", 3, sha256=digest)


def test_a_version_can_be_written_again(store: ClientStore) -> None:
    store.put("a", 3, b"an attempt")
    store.put("a", 3, b"the next")
    assert store.get("a", 3) == b"the next"
    assert len(list(store.folder.rglob("*.*"))) == 1


def test_older_versions_can_be_forgotten(store: ClientStore) -> None:
    for version in (1, 2, 12):
        store.put("a", version, b"x")
    store.put("b", 1, b"y")
    store.forget_before("a", 2)
    store.forget_before("never seen", 9)
    assert sorted(path.name for path in store.folder.rglob("*.safetensors")) == [
        "000000001.safetensors",  # of b
        "000000002.safetensors",
        "000000012.safetensors",
    ]
    assert store.get("b", 1) == b"y"


@pytest.mark.parametrize("client", ["../../etc/passwd", "a/b", "", "x" * 5000, "nul\x00", ".", "ÄÖ"])
def test_a_client_id_may_be_any_text_and_stays_inside_the_folder(store: ClientStore, client: str) -> None:
    store.put(client, 1, b"x")
    assert store.get(client, 1) == b"x"
    (path,) = store.folder.parent.rglob("*.safetensors")
    assert path.parent.parent == store.folder


def test_only_the_owner_can_read_it(store: ClientStore) -> None:
    store.put("a", 1, b"x")
    (path,) = store.folder.rglob("*.safetensors")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_failed_write_names_the_file_and_leaves_what_was_there(store: ClientStore) -> None:
    store.put("a", 1, b"x")
    (path,) = store.folder.rglob("*.safetensors")
    path.with_suffix(".new").mkdir()
    with pytest.raises(StorageError, match="cannot write the client's state"):
        store.put("a", 1, b"y")
    assert store.get("a", 1) == b"x"
