"""Which sites may join: keys by the names of their files, and errors for files that are not keys."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from fedfm.errors import RecipeError
from fedfm.runtimes.flower.admission import check_private_key, check_tls, keys_by_name
from fedfm.runtimes.flower.keys import CERTIFICATE, certificate_fingerprint, key_fingerprint, new_certificates, new_key


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("clinic", "ward-2"):
        new_key(folder / name)
    return folder


def test_a_folder_or_files_name_the_sites(keys: Path) -> None:
    found = {"clinic": keys / "clinic.pub", "ward-2": keys / "ward-2.pub"}
    assert keys_by_name([keys]) == found
    assert keys_by_name(list(found.values())) == found


def test_t16_b11_everything_that_is_wrong_is_named(keys: Path, tmp_path: Path) -> None:
    (keys / "a b.pub").write_text("")
    (keys / "broken.pub").write_text("ssh-rsa AAAA")
    shutil.copy(keys / "clinic.pub", keys / "double.pub")
    (tmp_path / "other").mkdir()
    new_key(tmp_path / "other" / "clinic")
    with pytest.raises(RecipeError) as caught:
        keys_by_name([keys, keys / "clinic", tmp_path / "other" / "clinic.pub", tmp_path / "gone.pub"])
    told = {Path(problem.where).name: problem.message for problem in caught.value.problems}
    assert "letters, digits" in told["a b.pub"]
    assert "NIST curve" in told["broken.pub"]
    assert "also the key of clinic" in told["double.pub"]
    assert "letters, digits" in told["clinic"]
    assert "site with the same name" in told["clinic.pub"]
    assert "no such file" in told["gone.pub"]


def test_a_folder_without_keys(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no public key"):
        keys_by_name([tmp_path])


def test_t15_certificates_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no ca.crt and no server.pem and no server.key.*fedfm certs new"):
        check_tls(tmp_path)
    new_certificates(tmp_path / "tls", ["localhost"])
    assert check_tls(tmp_path / "tls") == certificate_fingerprint(tmp_path / "tls" / CERTIFICATE)


def test_the_public_key_in_place_of_the_private_one(keys: Path) -> None:
    assert check_private_key(keys / "clinic") == key_fingerprint(keys / "clinic.pub")
    with pytest.raises(RecipeError, match=r"without \.pub"):
        check_private_key(keys / "clinic.pub")
