"""The cryptographic primitives of secure aggregation, each from a library; nothing is implemented here.

X25519 (RFC 7748), Ed25519 (RFC 8032), HKDF-SHA256 (RFC 5869), ChaCha20 and ChaCha20-Poly1305 (RFC 8439) are those of
``cryptography``, Shamir's secret sharing over GF(2¹²⁸) is that of ``pycryptodome``. All random bytes are the operating
system's: keys of masks are never drawn from a seed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedfm.errors import FedfmError

KEY_BYTES = 32
"""Bytes of every key, secret and seed: 256 bits."""
SIGNATURE_BYTES = 64
SEALED_BYTES = 16
"""Bytes that sealing adds to a text."""
_HALF = 16
"""Bytes of a secret that the library shares at once."""


class SecureAggregationError(FedfmError):
    """A step of secure aggregation that must not be taken; the text says why."""


def new_secret() -> bytes:
    """256 random bits of the operating system: a private key of X25519 or Ed25519, or a seed."""
    return os.urandom(KEY_BYTES)


def agreement_key(secret: bytes) -> bytes:
    """The public key of X25519."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def identity_key(secret: bytes) -> bytes:
    """The public key of Ed25519."""
    return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, public: bytes, context: bytes, purpose: bytes) -> bytes:
    """The 256-bit key that two parties derive alike, each from its secret and the public key of the other.

    Args:
        secret: of one party.
        public: of the other.
        context: what the key is bound to; the salt of HKDF.
        purpose: what it is used for.

    Raises:
        SecureAggregationError: the public key is one that gives every party the same secret.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise SecureAggregationError("a public key is of low order") from error
    return derive(shared, context, purpose)


def derive(secret: bytes, context: bytes, purpose: bytes) -> bytes:
    """A 256-bit key from a secret, by HKDF-SHA256 with ``context`` as salt."""
    return HKDF(SHA256(), KEY_BYTES, salt=context, info=purpose).derive(secret)


def keystream(key: bytes, count: int) -> bytes:
    """The first ``count`` bytes of ChaCha20 with block counter and nonce 0; a key is used for one stream only."""
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(count))


def seal(key: bytes, text: bytes) -> bytes:
    """ChaCha20-Poly1305 with nonce 0; a key seals one text only."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), text, None)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """The inverse of `seal`.

    Raises:
        SecureAggregationError: it was sealed with another key, or was changed.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, None)
    except InvalidTag as error:
        raise SecureAggregationError("a sealed share was changed, or was sealed for another roster") from error


def sign(secret: bytes, text: bytes) -> bytes:
    """The Ed25519 signature of a text."""
    return Ed25519PrivateKey.from_private_bytes(secret).sign(text)


def verify(public: bytes, signature: bytes, text: bytes, who: str) -> None:
    """Checks a signature.

    Raises:
        SecureAggregationError: it is not that of ``who``.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except (InvalidSignature, ValueError) as error:
        raise SecureAggregationError(f"a signature is not that of {who}") from error


def split(secret: bytes, threshold: int, shares: int) -> list[bytes]:
    """Shamir's shares of a 256-bit secret, each of its halves shared by itself; fewer than ``threshold`` tell nothing.

    Returns:
        The share of holder 1, 2, …, 32 bytes each.
    """
    halves = [Shamir.split(threshold, shares, secret[start : start + _HALF], ssss=False) for start in (0, _HALF)]
    return [first + second for (_, first), (_, second) in zip(*halves, strict=True)]


def join(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret of which there are shares.

    Args:
        shares: number of the holder, from 1 → its share.
        threshold: as for `split`.

    Raises:
        SecureAggregationError: there are fewer than ``threshold``.
    """
    if len(shares) < threshold:
        raise SecureAggregationError(f"{len(shares)} shares of a secret are fewer than the {threshold} that it takes")
    used = sorted(shares)[:threshold]
    halves = (
        Shamir.combine([(holder, shares[holder][start : start + _HALF]) for holder in used], ssss=False)
        for start in (0, _HALF)
    )
    return b"".join(halves)
