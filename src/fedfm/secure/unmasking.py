"""What the server asks at the end of a secure sum, and what is signed there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfm.secure.attempt import Roster, digest_of, from_hex, read
from fedfm.secure.primitives import SecureAggregationError


@dataclass(frozen=True)
class Survivors:
    """The clients of a sum, as the server names them.

    Attributes:
        alive: clients whose vectors are in the sum, sorted.
        dead: clients that shared, and whose vectors are not in it, sorted.
        signature: of the server, over both.
        proofs: client id → what it said of its vector, for the alive neighbours of the client that is asked.
    """

    alive: tuple[str, ...]
    dead: tuple[str, ...]
    signature: bytes
    proofs: Mapping[str, bytes]

    def encode(self) -> bytes:
        """What is sent."""
        return json.dumps([self.alive, self.dead, self.signature.hex(), _table(self.proofs)]).encode()

    @classmethod
    def decode(cls, content: bytes) -> Survivors:
        """The inverse of `encode`.

        Raises:
            SecureAggregationError: it is none.
        """
        match read(content):
            case [[*alive], [*dead], str(signature), dict(proofs)] if all(
                isinstance(text, str) for text in (*alive, *dead, *proofs.values())
            ):
                return cls(tuple(alive), tuple(dead), from_hex(signature), _from_table(proofs))
        raise SecureAggregationError("the list of clients in the sum cannot be read")


@dataclass(frozen=True)
class Unmasking:
    """What the server asks for at the end.

    Attributes:
        confirmed: client id → its signature of the list of clients in the sum.
        sealed: client id → its sealed shares, for the neighbours of the client that is asked.
    """

    confirmed: Mapping[str, bytes]
    sealed: Mapping[str, bytes]

    def encode(self) -> bytes:
        """What is sent."""
        return json.dumps([_table(self.confirmed), _table(self.sealed)]).encode()

    @classmethod
    def decode(cls, content: bytes) -> Unmasking:
        """The inverse of `encode`.

        Raises:
            SecureAggregationError: it is none.
        """
        match read(content):
            case [dict(confirmed), dict(sealed)] if all(
                isinstance(text, str) for text in (*confirmed.values(), *sealed.values())
            ):
                return cls(_from_table(confirmed), _from_table(sealed))
        raise SecureAggregationError("the request to unmask cannot be read")


def masked_text(roster: Roster, sharers: Sequence[str], client: str, said: bytes) -> bytes:
    """What a client signs when it has masked: its commitment and the digest of its vector, for these sharers."""
    return digest_of("masked", roster.digest, list(sharers), client, said)


def survivors_text(roster: Roster, alive: Sequence[str], dead: Sequence[str]) -> bytes:
    """What the server signs when it names the clients in the sum."""
    return digest_of("survivors", roster.digest, list(alive), list(dead))


def confirmed_text(roster: Roster, alive: Sequence[str], dead: Sequence[str]) -> bytes:
    """What a client signs when it confirms them."""
    return digest_of("confirmed", roster.digest, list(alive), list(dead))


def _table(values: Mapping[str, bytes]) -> dict[str, str]:
    return {client: value.hex() for client, value in values.items()}


def _from_table(values: Mapping[str, str]) -> dict[str, bytes]:
    return {client: from_hex(value) for client, value in values.items()}
