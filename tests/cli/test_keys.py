"""``fedfm keys`` and ``fedfm certs``: what they write and print; they overwrite nothing and explain refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fedfm.cli.main import main

KEY = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMAaR6BQChoIGAGX692+rNl/31un1pL3pyunZpRc"
    "tUjEofTXFdtFN1HtiF2ICh2h4SEZUoOOapx+bwFRL+qAzqM= someone@somewhere\n"
)
KEY_FINGERPRINT = "SHA256:ccnSMsMyPoyouSr18fQh7afoAszS2p1DH5lGx4cdW/E"  # by ssh-keygen of OpenSSH 9.2

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBXTCCAQOgAwIBAgIUF6tDTaIn0Z5xlOBzgD0lgfoOZXswCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRZmVkZm0sIGZvciB0cnlpbmcwHhcNMjYxMTIxMjM0MzUzWhcN
MjYxMjIxMjM0ODUzWjAcMRowGAYDVQQDDBFmZWRmbSwgZm9yIHRyeWluZzBZMBMG
ByqGSM49AgEGCCqGSM49AwEHA0IABJNORkD/Ks++C9TVp5/KChV+nv0d9eXULhMF
Y+a39zJIMbhe8EhWScXTV9Cjk76Blf6+maAbbglqyZog7rAPyZWjIzAhMA8GA1Ud
EwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgEGMAoGCCqGSM49BAMCA0gAMEUCIQCk
0z+pgR5ME8w3nt7+LvbRqzk2MAAyYtCmV1qX56VwwwIgC5yG0j2xvEyDdQYpjy5U
xtfZCDVFeadAI2pQnNj4RJQ=
-----END CERTIFICATE-----
"""
CERTIFICATE_FINGERPRINT = (  # by OpenSSL 3.0
    "6B:F7:ED:44:C3:45:F9:29:D4:EA:E2:00:55:EF:17:0D:00:28:A0:90:7F:81:98:F0:F9:65:9A:F9:A7:32:F8:C4"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def needs_flower() -> None:
    pytest.importorskip("cryptography", reason="comes with the extra `flower`")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def told(*arguments: object) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: object) -> tuple[int, str]:
    result = invoke(*arguments)
    assert result.exit_code in {2, 5}, result.output
    assert result.stdout == ""
    return result.exit_code, result.stderr


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def by(tool: str, *arguments: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.usefixtures("needs_flower")
class TestKeys:
    def test_a_new_key_is_private_and_says_what_to_send(self) -> None:
        result = invoke("keys", "new", "node")
        assert result.exit_code == 0
        assert Path("node").stat().st_mode & 0o777 == 0o600
        assert Path("node.pub").read_text().startswith("ecdsa-sha2-nistp384 ")
        sent, fingerprint, kept = result.stdout.splitlines()
        assert sent.startswith("Send node.pub ")
        assert fingerprint.strip() == told("keys", "fingerprint", "node.pub")[0]["fingerprint"]
        assert kept.startswith("Keep node secret")

    def test_as_json(self) -> None:
        made = told("keys", "new", "node")
        assert made == {"private": "node", "public": "node.pub", "fingerprint": made["fingerprint"]}
        assert told("keys", "fingerprint", "node", "node.pub") == [
            {"path": name, "fingerprint": made["fingerprint"]} for name in ("node", "node.pub")
        ]

    def test_a_known_fingerprint(self) -> None:
        Path("known.pub").write_text(KEY)
        assert invoke("keys", "fingerprint", "known.pub").stdout == f"{KEY_FINGERPRINT}  known.pub\n"

    def test_fingerprints_are_those_of_ssh_keygen(self) -> None:
        invoke("keys", "new", "node")
        assert by("ssh-keygen", "-lf", "node.pub").split()[1] == told("keys", "fingerprint", "node")[0]["fingerprint"]

    @pytest.mark.parametrize("bits", ["256", "384", "521"])
    def test_keys_of_ssh_keygen_serve_as_well(self, bits: str) -> None:
        by("ssh-keygen", "-q", "-t", "ecdsa", "-b", bits, "-N", "", "-f", "other")
        wanted = by("ssh-keygen", "-lf", "other.pub").split()[1]
        assert [each["fingerprint"] for each in told("keys", "fingerprint", "other", "other.pub")] == [wanted, wanted]

    @pytest.mark.parametrize("there", ["node", "node.pub"])
    def test_nothing_is_overwritten_nor_half_written(self, there: str) -> None:
        Path(there).write_text("mine")
        code, message = refused("keys", "new", "node")
        assert code == 2
        assert f"{there}: 1 problem\n  exists already" in message
        assert files() == {there: b"mine"}

    @pytest.mark.parametrize(
        ("path", "code", "why"),
        [
            ("missing/node", 5, "the folder missing does not exist; make it first"),
            ("file/node", 5, "cannot be written: Not a directory"),
            (".", 2, "exists already"),
            ("node.pub", 2, "name the private key, without .pub"),
        ],
    )
    def test_places_where_no_key_can_be(self, path: str, code: int, why: str) -> None:
        Path("file").write_text("mine")
        found, message = refused("keys", "new", path)
        assert found == code
        assert why in message
        assert files() == {"file": b"mine"}

    def test_a_folder_that_may_not_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def deny(*arguments: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("fedfm.runtimes.flower.keys.os.open", deny)
        assert refused("keys", "new", "node") == (
            5,
            "error: node: cannot be written: Permission denied; choose another folder\n",
        )

    def test_a_full_disk_leaves_no_half_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.fdopen
        opened = []

        def full(*arguments: Any) -> Any:
            opened.append(arguments)
            if len(opened) == 2:
                os.close(arguments[0])
                raise OSError(28, "No space left on device")
            return real(*arguments)

        monkeypatch.setattr("fedfm.runtimes.flower.keys.os.fdopen", full)
        code, message = refused("keys", "new", "node")
        assert code == 5
        assert "No space left on device" in message
        assert files() == {}

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (None, "there is no such file"),
            ("", "is not a key in OpenSSH format"),
            ("hello", "is not a key in OpenSSH format"),
            ("ecdsa-sha2-nistp256 AAAA\n", "is not a key in OpenSSH format"),
            (KEY + KEY, "is not a key in OpenSSH format"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "is not a key in OpenSSH format"),
            (CERTIFICATE, "is not a key in OpenSSH format"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl", "NIST curve"),
            ("sk-" + KEY.replace(" ", "@openssh.com ", 1), "NIST curve"),
        ],
        ids=["missing", "empty", "text", "damaged", "two", "damaged-private", "certificate", "ed25519", "token"],
    )
    def test_what_is_no_key_of_a_node(self, content: str | None, why: str) -> None:
        if content is not None:
            Path("given").write_text(content)
        code, message = refused("keys", "fingerprint", "given")
        assert code == 2
        assert message.startswith("error: given: 1 problem\n")
        assert why in message

    def test_a_folder_is_no_key(self) -> None:
        assert "is a folder" in refused("keys", "fingerprint", ".")[1]

    @pytest.mark.parametrize(
        ("options", "why"), [(["ed25519", "-N", ""], "NIST curve"), (["ecdsa", "-N", "secret"], "has a passphrase")]
    )
    def test_private_keys_that_flower_does_not_take(self, options: list[str], why: str) -> None:
        by("ssh-keygen", "-q", "-f", "other", "-t", *options)
        assert why in refused("keys", "fingerprint", "other")[1]


@pytest.mark.usefixtures("needs_flower")
class TestCertificates:
    def test_new_ones_say_what_goes_where(self) -> None:
        result = invoke("certs", "new", "tls", "server.example.org", "localhost", "192.0.2.1", "::1")
        assert result.exit_code == 0
        assert set(files()) == {"tls/ca.crt", "tls/server.pem", "tls/server.key"}
        assert Path("tls/server.key").stat().st_mode & 0o777 == 0o600
        assert "Send tls/ca.crt to every site" in result.stdout
        assert "Keep tls/server.key secret" in result.stdout
        assert "valid for 30 days" in result.stdout
        assert told("certs", "fingerprint", "tls/ca.crt")[0]["fingerprint"] in result.stdout

    def test_they_hold_the_names_once_and_the_days_that_are_told(self) -> None:
        from cryptography import x509

        made = told("certs", "new", "tls", "Server.Example.org", "::1", "::1")
        server = x509.load_pem_x509_certificate(Path(made["certificate"]).read_bytes())
        named = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(name.value) for name in named] == ["server.example.org", "::1"]
        assert (server.not_valid_after_utc - server.not_valid_before_utc).days == made["days"]
        server.verify_directly_issued_by(x509.load_pem_x509_certificate(Path(made["authority"]).read_bytes()))

    def test_a_known_fingerprint(self) -> None:
        Path("known.crt").write_text(CERTIFICATE)
        assert invoke("certs", "fingerprint", "known.crt").stdout == f"{CERTIFICATE_FINGERPRINT}  known.crt\n"

    def test_fingerprints_of_a_folder_are_those_of_openssl(self) -> None:
        invoke("certs", "new", "tls", "localhost")
        for name, each in zip(["ca.crt", "server.pem"], told("certs", "fingerprint", "tls"), strict=True):
            assert each["path"] == f"tls/{name}"
            line = by("openssl", "x509", "-in", f"tls/{name}", "-noout", "-fingerprint", "-sha256")
            assert line.strip().split("=")[1] == each["fingerprint"]

    def test_a_nodes_folder_holds_the_authority_alone(self) -> None:
        Path("ca.crt").write_text(CERTIFICATE)
        assert told("certs", "fingerprint", ".") == [{"path": "ca.crt", "fingerprint": CERTIFICATE_FINGERPRINT}]

    @pytest.mark.parametrize("there", ["ca.crt", "server.pem", "server.key"])
    def test_nothing_is_overwritten_nor_half_written(self, there: str) -> None:
        Path("tls").mkdir()
        Path("tls", there).write_text("mine")
        code, message = refused("certs", "new", "tls", "localhost")
        assert code == 2
        assert f"tls/{there}: 1 problem\n  exists already" in message
        assert files() == {f"tls/{there}": b"mine"}

    def test_all_names_that_are_none_are_told_and_nothing_is_made(self) -> None:
        bad = [
            "a b",
            "https://x.org",
            "x.org:443",
            "192.0.2.400",
            "[::1]",
            "fe80::1%eth0",
            "-x.org",
            "x..org",
            "*.x.org",
        ]
        bad += ["", "x_y.org", "münchen.de", "x" * 64, "x." * 127 + "org"]
        code, message = refused("certs", "new", "tls", "localhost", "--", *bad)
        assert code == 2
        assert message.startswith(f"error: names of the server: {len(bad)} problems\n")
        assert all(f"(got {name!r})" in message for name in bad)
        assert not Path("tls").exists()

    def test_a_file_where_the_folder_should_be(self) -> None:
        Path("tls").write_text("mine")
        code, message = refused("certs", "new", "tls", "localhost")
        assert code == 5
        assert "tls: cannot be made: there is a file of that name" in message

    @pytest.mark.parametrize(("path", "why"), [("missing", "there is no such file"), ("key", "is not a certificate")])
    def test_what_is_no_certificate(self, path: str, why: str) -> None:
        Path("key").write_text(KEY)
        code, message = refused("certs", "fingerprint", path)
        assert code == 2
        assert why in message

    def test_a_name_is_wanted(self) -> None:
        assert "Missing argument 'NAME...'" in refused("certs", "new", "tls")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "new", "node"],
        ["keys", "fingerprint", "x"],
        ["certs", "new", "tls", "x.org"],
        ["certs", "fingerprint", "x"],
    ],
)
def test_without_the_extra_it_is_named(arguments: list[str]) -> None:
    program = f"import sys\nsys.modules['cryptography'] = None\nfrom fedfm.cli.main import main\nmain({arguments})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "needs the extra `flower`; in fedfm's checkout: make install EXTRAS=flower" in result.stderr
    assert files() == {}
