"""One attempt at a secure sum: what all parties know of it, and the graph of who masks with whom.

Keys belong to one attempt. A round that starts over is a new attempt with a new nonce, so with other keys.

Masks are between neighbours in a k-regular graph (Bell et al., Secure Single-Server Aggregation with (Poly)Logarithmic
Overhead, CCS 2020, https://eprint.iacr.org/2020/704, §3): clients on a ring in a random order, each joined to the k/2
next on both sides (a Harary graph). The order comes from the digest of all public keys of the attempt, so that every
client finds the graph by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedfm.secure.primitives import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    SecureAggregationError,
    derive,
    keystream,
    verify,
)
from fedfm.secure.terms import Terms
from fedfm.untrusted import UntrustedError, read_json

NONCE_BYTES = 16
ADVERTISED_BYTES = 3 * KEY_BYTES + SIGNATURE_BYTES


def digest_of(*parts: Any) -> bytes:
    """SHA-256 of a list of texts, numbers, lists and bytes; different lists are written differently."""
    plain = [part.hex() if isinstance(part, bytes) else part for part in parts]
    return hashlib.sha256(json.dumps(plain).encode()).digest()


@dataclass(frozen=True)
class Attempt:
    """What the server announces.

    Attributes:
        round: 1-based round.
        nonce: random, so that no two attempts of any run are alike.
        clients: that are asked, sorted.
        server: the server's public key of Ed25519 in this attempt.
        values: P, the length of a vector.
        terms: the recipe's.
    """

    round: int
    nonce: bytes
    clients: tuple[str, ...]
    server: bytes
    values: int
    terms: Terms

    @cached_property
    def context(self) -> bytes:
        """Digest of all of it, to which keys and signatures are bound."""
        terms = [*vars(self.terms).values()]
        return digest_of("fedfm secagg 1", self.round, self.nonce, list(self.clients), self.server, self.values, terms)

    def encode(self) -> bytes:
        """What is sent; the terms are not, each party has its own."""
        told = [self.round, self.nonce.hex(), list(self.clients), self.server.hex(), self.values]
        return json.dumps(told).encode()

    @classmethod
    def decode(cls, content: bytes, terms: Terms) -> Attempt:
        """The inverse of `encode`.

        Raises:
            SecureAggregationError: it is none.
        """
        match read(content):
            case [int(number), str(nonce), [*clients], str(server), int(values)] if all(
                isinstance(client, str) for client in clients
            ):
                return cls(number, from_hex(nonce), tuple(clients), from_hex(server), values, terms)
        raise SecureAggregationError("the announcement of an attempt cannot be read")


@dataclass(frozen=True)
class Advertised:
    """A client's public keys in one attempt.

    Attributes:
        client: client id.
        sealing: X25519, for sealed shares.
        masking: X25519, for masks.
        identity: Ed25519, the same in all attempts.
        signature: by ``identity``.
    """

    client: str
    sealing: bytes
    masking: bytes
    identity: bytes
    signature: bytes

    def signed(self, attempt: Attempt) -> bytes:
        """What the signature is of."""
        return digest_of("advertise", attempt.context, self.client, self.sealing, self.masking, self.identity)

    def check(self, attempt: Attempt) -> None:
        """Checks the signature.

        Raises:
            SecureAggregationError: it is not the client's.
        """
        verify(self.identity, self.signature, self.signed(attempt), f"client {self.client}")

    def encode(self) -> bytes:
        """All but the name, `ADVERTISED_BYTES`."""
        return self.sealing + self.masking + self.identity + self.signature

    @classmethod
    def decode(cls, client: str, content: bytes) -> Advertised:
        """The inverse of `encode`.

        Raises:
            SecureAggregationError: it has another length.
        """
        if len(content) != ADVERTISED_BYTES:
            raise SecureAggregationError(f"the keys of client {client} have {len(content)} bytes")
        ends = [KEY_BYTES, 2 * KEY_BYTES, 3 * KEY_BYTES]
        return cls(client, *(content[a:b] for a, b in zip([0, *ends], [*ends, None], strict=True)))


@dataclass(frozen=True)
class Roster:
    """The clients that take part in an attempt, with their keys.

    Attributes:
        attempt: theirs.
        members: sorted by client id.
    """

    attempt: Attempt
    members: tuple[Advertised, ...]

    @cached_property
    def digest(self) -> bytes:
        """Digest of the attempt and of all keys; parties with other rosters have other masks, and unseal nothing."""
        told = [[member.client, member.encode().hex()] for member in self.members]
        return digest_of("roster", self.attempt.context, told)

    @cached_property
    def keys(self) -> dict[str, Advertised]:
        """Client id → its keys."""
        return {member.client: member for member in self.members}

    @property
    def degree(self) -> int:
        """k, the neighbours of each client."""
        return self.attempt.terms.degree(len(self.members))

    @property
    def least(self) -> int:
        """t, the shares that a secret takes."""
        return self.attempt.terms.least(self.degree)

    @property
    def quorum(self) -> int:
        """The clients that must confirm a list of clients in the sum: no two lists can have as many, unless more than
        2·quorum − n of the n clients sign both.
        """
        return self.attempt.terms.least(len(self.members))

    @cached_property
    def neighbors(self) -> dict[str, tuple[str, ...]]:
        """Client id → its neighbours, sorted; holder j of its shares is the j-th, from 1."""
        return neighbor_graph([member.client for member in self.members], self.degree, self.digest)

    def encode(self) -> bytes:
        """What is sent."""
        return json.dumps([[member.client, member.encode().hex()] for member in self.members]).encode()

    @classmethod
    def decode(cls, attempt: Attempt, content: bytes) -> Roster:
        """The roster in these bytes, unchecked.

        Raises:
            SecureAggregationError: it is none.
        """
        match read(content):
            case [*rows] if all(isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) for row in rows):
                members = tuple(Advertised.decode(client, from_hex(keys)) for client, keys in rows)
            case _:
                raise SecureAggregationError("the roster cannot be read")
        return cls(attempt, members)

    def check(self) -> None:
        """Checks every signature, and that the clients are some of those that were asked.

        Raises:
            SecureAggregationError: it has a client that was not asked, or twice, or too few; a key occurs twice; or a
                signature is wrong.
        """
        attempt, members = self.attempt, self.members
        names = [member.client for member in members]
        if names != sorted(self.keys) or not self.keys.keys() <= set(attempt.clients):
            raise SecureAggregationError("the roster names a client twice, or one that was not asked")
        keys = [key for member in members for key in (member.sealing, member.masking, member.identity)]
        if len(set(keys)) != len(keys):
            raise SecureAggregationError("a key occurs twice in the roster")
        if len(members) < attempt.terms.min_clients:
            raise SecureAggregationError(too_few(len(members), "take part", attempt.terms))
        for member in members:
            member.check(attempt)


def neighbor_graph(clients: Sequence[str], degree: int, key: bytes) -> dict[str, tuple[str, ...]]:
    """Each client's neighbours, sorted.

    Args:
        clients: sorted ids.
        degree: k, even or all others.
        key: decides the order on the ring.
    """
    if degree >= len(clients) - 1:
        return {client: tuple(other for other in clients if other != client) for client in clients}
    stream = keystream(derive(key, b"", b"fedfm secure graph"), 8 * len(clients))
    places = {client: stream[8 * i : 8 * i + 8] for i, client in enumerate(clients)}
    ring = sorted(clients, key=lambda client: (places[client], client))
    reach = [*range(-(degree // 2), 0), *range(1, degree // 2 + 1)]
    return {
        client: tuple(sorted(ring[(place + offset) % len(ring)] for offset in reach))
        for place, client in enumerate(ring)
    }


def too_few(clients: int, what: str, terms: Terms) -> str:
    """Says that there are too few clients."""
    return f"only {clients} clients {what}, fewer than secure.min_clients ({terms.min_clients})"


def read(content: bytes) -> Any:
    """JSON of another party.

    Raises:
        SecureAggregationError: it is none.
    """
    try:
        return read_json(content)
    except UntrustedError as error:
        raise SecureAggregationError(f"a message of secure aggregation cannot be read ({error})") from error


def from_hex(text: str) -> bytes:
    """The bytes of a hexadecimal text.

    Raises:
        SecureAggregationError: it is none.
    """
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise SecureAggregationError("a message of secure aggregation has a key that cannot be read") from error
