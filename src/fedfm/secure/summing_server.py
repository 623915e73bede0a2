"""The server's side of a secure sum: it adds masked vectors, and removes the masks of the sum and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from fedfm.secure.attempt import NONCE_BYTES, Advertised, Attempt, Roster, too_few
from fedfm.secure.grid import Grid
from fedfm.secure.masking_client import PROOF_BYTES, commitment
from fedfm.secure.masks import Masked, is_negative, pair_key, self_key
from fedfm.secure.primitives import (
    KEY_BYTES,
    SecureAggregationError,
    agreement_key,
    identity_key,
    join,
    new_secret,
    sign,
    verify,
)
from fedfm.secure.terms import Terms
from fedfm.secure.unmasking import Survivors, Unmasking, confirmed_text, masked_text, survivors_text


class SummingServer:
    """One attempt, from its announcement to the sum. Memory holds one sum, whatever the number of clients.

    Attributes:
        attempt: what is announced.
        roster: of the clients that take part; None before `enroll`.
        sharers: clients whose shares are here, sorted.
        alive: clients whose vectors are in the sum, sorted.
    """

    def __init__(self, terms: Terms, number: int, clients: Sequence[str], values: int) -> None:
        """An attempt with fresh keys.

        Args:
            terms: the recipe's.
            number: 1-based round.
            clients: that are asked.
            values: P, the length of a vector.
        """
        self._secret = new_secret()
        nonce = new_secret()[:NONCE_BYTES]
        self.attempt = Attempt(number, nonce, tuple(sorted(clients)), identity_key(self._secret), values, terms)
        self.roster: Roster | None = None
        self._sealed: dict[str, Mapping[str, bytes]] = {}
        self._proofs: dict[str, bytes] = {}
        self._confirmed: dict[str, bytes] = {}
        self._sum = Masked.zeros(values, self.grid.dtype)

    @property
    def grid(self) -> Grid:
        """The integers that values become."""
        terms = self.attempt.terms
        return Grid(len(self.attempt.clients), terms.clip, terms.weight, terms.bits)

    @property
    def sharers(self) -> tuple[str, ...]:
        """Clients whose shares are here."""
        return tuple(sorted(self._sealed))

    @property
    def alive(self) -> tuple[str, ...]:
        """Clients whose vectors are in the sum."""
        return tuple(sorted(self._proofs))

    def enroll(self, keys: Mapping[str, bytes]) -> Roster:
        """The roster, from what clients advertised; a client with a wrong signature is left out.

        Raises:
            SecureAggregationError: too few clients are left.
        """
        members = []
        for client, content in sorted(keys.items()):
            try:
                member = Advertised.decode(client, content)
                member.check(self.attempt)
            except SecureAggregationError:
                continue
            members.append(member)
        self.roster = Roster(self.attempt, tuple(members))
        self.roster.check()
        return self.roster

    def keep(self, client: str, sealed: Sequence[bytes]) -> None:
        """Keeps a client's sealed shares, one for each neighbour in turn."""
        self._sealed[client] = dict(zip(self._known.neighbors[client], sealed, strict=True))

    def require_sharers(self) -> None:
        """Checks that so many have shared that vectors can be masked.

        Raises:
            SecureAggregationError: too few have shared, of all or of a client's neighbours.
        """
        self._require(self.sharers, "have shared")

    def add(self, client: str, masked: Masked, proof: bytes) -> None:
        """Adds a masked vector.

        Raises:
            SecureAggregationError: the client did not share, or has a vector in the sum; or it did not sign this one.
        """
        if client not in self._sealed or client in self._proofs:
            raise SecureAggregationError("it did not share, or a vector of it is in the sum already")
        said, signature = proof[: 2 * KEY_BYTES], proof[2 * KEY_BYTES :]
        if len(proof) != PROOF_BYTES or said[KEY_BYTES:] != hashlib.sha256(masked.tobytes()).digest():
            raise SecureAggregationError("what it says of its masked vector is wrong")
        text = masked_text(self._known, self.sharers, client, said)
        verify(self._known.keys[client].identity, signature, text, f"client {client}")
        self._proofs[client] = proof
        self._sum.add(masked)

    @property
    def dead(self) -> tuple[str, ...]:
        """Clients whose shares are here, and whose vectors are not in the sum."""
        return tuple(client for client in self.sharers if client not in self._proofs)

    def survivors(self) -> dict[str, Survivors]:
        """What each client in the sum is told of the others, and asked to confirm.

        Raises:
            SecureAggregationError: too few vectors are in the sum, in all or of a client's neighbours.
        """
        alive, dead = self.alive, self.dead
        self._require(alive, "are in the sum")
        signature = sign(self._secret, survivors_text(self._known, alive, dead))
        found = {}
        for client in alive:
            neighbors = self._known.neighbors[client]
            proofs = {other: self._proofs[other] for other in neighbors if other in self._proofs}
            found[client] = Survivors(alive, dead, signature, proofs)
        return found

    def confirm(self, client: str, signature: bytes) -> None:
        """Keeps a client's signature of the list of clients in the sum.

        Raises:
            SecureAggregationError: it is not that of the client.
        """
        text = confirmed_text(self._known, self.alive, self.dead)
        verify(self._known.keys[client].identity, signature, text, f"client {client}")
        self._confirmed[client] = signature

    def requests(self) -> dict[str, Unmasking]:
        """What each client that has confirmed is asked, with as many confirmations as it needs.

        Raises:
            SecureAggregationError: too few clients have confirmed, in all or of a client's neighbours.
        """
        here, quorum = sorted(self._confirmed), self._known.quorum
        self._require(here, "have confirmed the sum")
        if len(here) < quorum:
            raise SecureAggregationError(f"only {len(here)} clients have confirmed the sum, fewer than {quorum}")
        confirmed = {client: self._confirmed[client] for client in here[:quorum]}
        found = {}
        for client in here:
            neighbors = [other for other in self._known.neighbors[client] if other in self._sealed]
            found[client] = Unmasking(confirmed, {other: self._sealed[other][client] for other in neighbors})
        return found

    def total(self, shares: Mapping[str, Sequence[bytes]]) -> Masked:
        """The sum without masks.

        Args:
            shares: client id → its shares, one for each neighbour in turn.

        Raises:
            SecureAggregationError: too few shares of a secret came, or wrong ones.
        """
        roster = self._known
        held: dict[str, dict[int, bytes]] = {client: {} for client in self.sharers}
        for holder, its in shares.items():
            for owner, share in zip(roster.neighbors[holder], its, strict=True):
                if owner in held:
                    held[owner][roster.neighbors[owner].index(holder) + 1] = share
        secrets = {owner: join(its, roster.least) for owner, its in held.items()}
        result = self._sum.copy()
        for owner, secret in secrets.items():
            if owner in self._proofs:
                if commitment(secret, roster) != self._proofs[owner][:KEY_BYTES]:
                    raise SecureAggregationError(f"the shares of the mask of client {owner} do not fit each other")
                result.mask(self_key(secret, roster.digest), negative=True)
                continue
            if agreement_key(secret) != roster.keys[owner].masking:
                raise SecureAggregationError(f"the shares of the masking key of client {owner} do not fit each other")
            for other in roster.neighbors[owner]:
                if other in self._proofs:
                    key = pair_key(secret, roster.keys[other].masking, roster.digest)
                    result.mask(key, negative=is_negative(owner, other))
        return result

    @property
    def _known(self) -> Roster:
        if self.roster is None:
            raise SecureAggregationError("no client has taken part yet")
        return self.roster

    def _require(self, clients: Sequence[str], what: str) -> None:
        """Checks that enough clients are there, in all and among the neighbours of each client that shared."""
        terms, roster = self.attempt.terms, self._known
        if len(clients) < terms.min_clients:
            raise SecureAggregationError(too_few(len(clients), what, terms))
        here = set(clients)
        for owner in self.sharers:
            helpers = sum(other in here for other in roster.neighbors[owner])
            if helpers < roster.least:
                raise SecureAggregationError(
                    f"only {helpers} of {roster.degree} neighbours of client {owner} {what}, fewer than the "
                    f"{roster.least} that its masks take"
                )
