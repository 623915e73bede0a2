"""A secure sum played by its parties in one process, for the tests of this room."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedfm.secure.attempt import Attempt
from fedfm.secure.grid import FACTS, encode_facts
from fedfm.secure.masking_client import MaskingState, advertise, confirm, mask, share, unmask
from fedfm.secure.masks import Masked
from fedfm.secure.summing_server import SummingServer
from fedfm.secure.terms import Terms
from fedfm.secure.unmasking import Survivors, Unmasking


def names(count: int) -> list[str]:
    return [f"client-{place:03d}" for place in range(count)]


def vector_of(values: np.ndarray) -> Masked:
    return Masked(encode_facts(dict.fromkeys(FACTS, 1.0)), values)


@dataclass
class Played:
    """One attempt, step by step; clients in ``gone`` do not answer a step."""

    server: SummingServer
    memories: dict[str, MaskingState]
    masked: dict[str, Masked] = field(default_factory=dict)
    proofs: dict[str, bytes] = field(default_factory=dict)
    shares: dict[str, list[bytes]] = field(default_factory=dict)
    roster: bytes = b""

    @classmethod
    def begin(
        cls, clients: int, values: int, terms: Terms, memories: Mapping[str, MaskingState] | None = None
    ) -> Played:
        everyone = names(clients)
        server = SummingServer(terms, 1, everyone, values)
        return cls(server, {client: (memories or {}).get(client) or MaskingState.new(client) for client in everyone})

    @property
    def nonce(self) -> bytes:
        return self.server.attempt.nonce

    def advertise(self, gone: Collection[str] = ()) -> None:
        terms, told = self.server.attempt.terms, self.server.attempt.encode()
        keys = {}
        for client in self.memories.keys() - set(gone):
            attempt = Attempt.decode(told, terms)
            self.memories[client], keys[client] = advertise(self.memories[client], attempt, attempt.values)
        self.roster = self.server.enroll(keys).encode()

    def share(self, gone: Collection[str] = ()) -> None:
        for client in self.server.roster.keys.keys() - set(gone):
            self.memories[client], sealed = share(self.memories[client], self.nonce, self.roster)
            self.server.keep(client, sealed)
        self.server.require_sharers()

    def mask(self, vectors: Mapping[str, np.ndarray], gone: Collection[str] = ()) -> None:
        for client in sorted(set(self.server.sharers) - set(gone)):
            vector = vector_of(vectors[client])
            found = mask(self.memories[client], self.nonce, self.server.sharers, vector)
            self.memories[client], self.masked[client], self.proofs[client] = found
            self.server.add(client, self.masked[client], self.proofs[client])

    def confirm(self, gone: Collection[str] = ()) -> None:
        for client, named in self.server.survivors().items():
            if client not in gone:
                told = Survivors.decode(named.encode())
                self.memories[client], signature = confirm(self.memories[client], self.nonce, told)
                self.server.confirm(client, signature)

    def unmask(self, gone: Collection[str] = ()) -> Masked:
        for client, request in self.server.requests().items():
            if client not in gone:
                told = Unmasking.decode(request.encode())
                self.memories[client], self.shares[client] = unmask(self.memories[client], self.nonce, told)
        return self.server.total(self.shares)
