"""Keys of nodes, and certificates for a first try. A production federation uses certificates of its own authority."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedfm.errors import Problem, RecipeError, StorageError

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "server.pem", "server.key"
"""Names of the files in a folder of certificates."""

DAYS = 30
"""Validity of a certificate for a first try."""


PUBLIC = ".pub"
"""Ending of the file of a public key; it is added to the name of the private key's file."""

_KINDS = (b"ecdsa-sha2-nistp256 ", b"ecdsa-sha2-nistp384 ", b"ecdsa-sha2-nistp521 ")
"""Beginnings of the public keys that Flower accepts, in OpenSSH format."""

_OTHERS = (b"ssh-", b"sk-ssh-", b"sk-ecdsa-")
"""Beginnings of the public keys that Flower does not accept."""

_LARGEST = 1 << 16
"""Bytes of a file that are read at most: keys and certificates are shorter."""

_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
"""A part of a host name between dots (RFC 1123)."""


def new_key(path: Path) -> Path:
    """Writes a node's private key to ``path``, for this user alone, and its public key beside it (``.pub``).

    Args:
        path: of the private key, in an existing folder.

    Returns:
        The public key's file.

    Raises:
        RecipeError: one of the files exists, or ``path`` is named like a public key; nothing is written.
        StorageError: the folder does not exist or cannot be written.
    """
    if path.name.endswith(PUBLIC):
        raise RecipeError(f"is the name of a public key; name the private key, without {PUBLIC}", source=str(path))
    key, public = ec.generate_private_key(ec.SECP384R1()), Path(f"{path}{PUBLIC}")
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    _write({path: secret, public: _line(key.public_key()) + b"\n"}, secret=path)
    return public


def key_fingerprint(path: Path) -> str:
    """The fingerprint of a public key, or of the public half of a private key, as ``ssh-keygen -lf`` prints it.

    Raises:
        RecipeError: the file does not exist, or is not a key on a NIST curve in OpenSSH format.
        StorageError: it cannot be read.
    """
    blob = base64.b64decode(_line(_public_key(path)).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def certificate_fingerprint(path: Path) -> str:
    """The fingerprint of the first certificate in a PEM file, as ``openssl x509 -fingerprint -sha256`` prints it.

    Raises:
        RecipeError: the file does not exist, or is not a certificate.
        StorageError: it cannot be read.
    """
    try:
        certificate = x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        message = f"is not a certificate in PEM format, such as `fedfm certs new` writes to {AUTHORITY}"
        raise RecipeError(message, source=str(path)) from error
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def new_secret(path: Path) -> None:
    """Writes a random secret to ``path``, for this user alone. It replaces an earlier secret.

    Args:
        path: in a folder that only this user can write.
    """
    path.unlink(missing_ok=True)
    _write({path: secrets.token_hex(32).encode()}, secret=path)


def new_certificates(folder: Path, names: Sequence[str], *, days: int = DAYS) -> None:
    """Writes an authority's certificate, and a server's key and certificate that it signed; its own key is not kept.

    Args:
        folder: an empty or new one.
        names: host names and addresses of the server, as clients use them; at least one.
        days: validity of the certificates.

    Raises:
        RecipeError: one of the files exists, or a name is neither a host name nor an address; nothing is written.
        StorageError: the folder cannot be made or written.
    """
    alternatives = _general_names(names)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedfm, for a first try")])
    usage = x509.KeyUsage(
        key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    root = (
        _certificate(issuer, issuer, authority.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(authority, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedfm server, for a first try")])
    server = (
        _certificate(subject, issuer, key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        raise StorageError(f"{folder}: cannot be made: {why}; choose another folder") from error
    pem = serialization.Encoding.PEM
    files = {KEY: secret, AUTHORITY: root.public_bytes(pem), CERTIFICATE: server.public_bytes(pem)}
    _write({folder / name: content for name, content in files.items()}, secret=folder / KEY)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Each name once, as a certificate holds it."""
    found = {name: _general_name(name) for name in names}
    problems = [
        Problem("", "is neither a host name such as server.example.org nor an address such as 192.0.2.1", repr(name))
        for name, general in found.items()
        if general is None
    ]
    if problems:
        raise RecipeError(problems, source="names of the server")
    return [general for general in found.values() if general is not None]


def _general_name(name: str) -> x509.GeneralName | None:
    """A host name or address as a certificate holds it; None if it is neither."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        labels = name.split(".")
        # A name whose last part is digits is a mistyped address.
        valid = len(name) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()
        return x509.DNSName(name.lower()) if valid else None
    return None if getattr(address, "scope_id", None) else x509.IPAddress(address)


def _line(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as OpenSSH writes it, without a comment."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """The public key, or the public half of the private key, in a file."""
    content, key = _read(path).strip(), None
    try:
        if content.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----"):
            key = serialization.load_ssh_private_key(content, None).public_key()
        elif b"\n" in content or not content.startswith(_KINDS + _OTHERS):
            raise ValueError
        elif content.startswith(_KINDS):  # not keys of security tokens, which are on the same curves
            key = serialization.load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"is not a key in OpenSSH format; give the file ending in {PUBLIC} that `fedfm keys new` wrote"
        raise RecipeError(message, source=str(path)) from error
    except TypeError as error:
        message = f"has a passphrase, and Flower's nodes cannot ask for one; its public half is in {path}{PUBLIC}"
        raise RecipeError(message, source=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        message = "is a key that Flower does not accept: nodes need a key on a NIST curve, as `fedfm keys new` makes"
        raise RecipeError(message, source=str(path))
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecipeError("there is no such file", source=str(path)) from error
    except IsADirectoryError as error:
        raise RecipeError("is a folder; name a file in it", source=str(path)) from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def _write(files: Mapping[Path, bytes], *, secret: Path) -> None:
    """Writes new files, all or none; only this user can read ``secret``."""
    written = list[Path]()
    try:
        for path, content in files.items():
            mode = 0o600 if path == secret else 0o644
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(path)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
    except BaseException as error:
        for done in written:
            done.unlink()
        if isinstance(error, (FileExistsError, IsADirectoryError)):
            message = "exists already and was not changed; nothing was written; choose another name"
            raise RecipeError(message, source=str(path)) from error
        if isinstance(error, FileNotFoundError):
            raise StorageError(f"{path}: the folder {path.parent} does not exist; make it first") from error
        if isinstance(error, OSError):
            raise StorageError(f"{path}: cannot be written: {error.strerror}; choose another folder") from error
        raise
