"""The client's side of a secure sum: five answers in one order, each once in an attempt.

    advertise   fresh public keys, signed by the client's identity
    share       Shamir's shares of its two secrets, sealed for each neighbour
    mask        its vector with all masks; from then on it can mask nothing else with these keys
    confirm     its signature of the list of clients that are in the sum, and of those that dropped out
    unmask      once enough clients have signed this list: for each neighbour one share, of its own mask where it is in
                the sum, of its masking key where it dropped out, never of both; then it forgets its keys

The signatures are the consistency check of Bonawitz et al., https://eprint.iacr.org/2017/281, Fig. 4: a server that
names other clients to one part of the clients than to another does not get enough of them for either list.

What a client must remember between answers is one value, `MaskingState`; a step returns the next one and changes
nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedfm.secure.attempt import Advertised, Attempt, Roster, digest_of, too_few
from fedfm.secure.masks import Masked, is_negative, pair_key, self_key
from fedfm.secure.primitives import (
    KEY_BYTES,
    SEALED_BYTES,
    SIGNATURE_BYTES,
    SecureAggregationError,
    agree,
    agreement_key,
    derive,
    identity_key,
    new_secret,
    seal,
    sign,
    split,
    unseal,
    verify,
)
from fedfm.secure.terms import Terms
from fedfm.secure.unmasking import Survivors, Unmasking, confirmed_text, masked_text, survivors_text

IDLE, ADVERTISED, SHARED, MASKED, CONFIRMED = "idle", "advertised", "shared", "masked", "confirmed"
"""What a client has done last in its attempt."""

SHARES_BYTES = 2 * KEY_BYTES + SEALED_BYTES
"""A sealed pair of shares for one neighbour."""
PROOF_BYTES = 2 * KEY_BYTES + SIGNATURE_BYTES
"""What a client says of its masked vector."""


@dataclass(frozen=True)
class MaskingState:
    """What a client remembers.

    Attributes:
        client: client id.
        identity: its secret key of Ed25519, for all attempts.
        known: client id → the identity under which it was first seen.
        step: what it has done last.
        attempt: that it takes part in, or took part in last; None before the first.
        sealing: its X25519 secret for sealed shares.
        masking: its X25519 secret for masks.
        seed: b, of its own mask.
        roster: of the attempt.
        sharers: clients that masks are for.
        alive: clients that it has confirmed to be in the sum.
    """

    client: str
    identity: bytes
    known: Mapping[str, str] = field(default_factory=dict)
    step: str = IDLE
    attempt: Attempt | None = None
    sealing: bytes = b""
    masking: bytes = b""
    seed: bytes = b""
    roster: Roster | None = None
    sharers: tuple[str, ...] = ()
    alive: tuple[str, ...] = ()

    @classmethod
    def new(cls, client: str) -> MaskingState:
        """That of a client which has taken part in no attempt."""
        return cls(client, new_secret())

    def encode(self) -> bytes:
        """The bytes that the client keeps; they are secret."""
        return json.dumps(
            {
                "identity": self.identity.hex(),
                "known": dict(self.known),
                "step": self.step,
                "attempt": self.attempt and self.attempt.encode().decode(),
                "secrets": [self.sealing.hex(), self.masking.hex(), self.seed.hex()],
                "roster": self.roster and self.roster.encode().decode(),
                "sharers": self.sharers,
                "alive": self.alive,
            }
        ).encode()

    @classmethod
    def decode(cls, client: str, content: bytes, terms: Terms) -> MaskingState:
        """The inverse of `encode`."""
        kept = json.loads(content)
        attempt = kept["attempt"] and Attempt.decode(kept["attempt"].encode(), terms)
        roster = kept["roster"] and Roster.decode(attempt, kept["roster"].encode())
        sealing, masking, seed = map(bytes.fromhex, kept["secrets"])
        known, sharers, alive = kept["known"], tuple(kept["sharers"]), tuple(kept["alive"])
        identity = bytes.fromhex(kept["identity"])
        return cls(client, identity, known, kept["step"], attempt, sealing, masking, seed, roster, sharers, alive)

    def in_attempt(self, step: str, nonce: bytes) -> Attempt:
        """The attempt, if this step of it was the client's last.

        Raises:
            SecureAggregationError: it was not.
        """
        if self.attempt is None or self.attempt.nonce != nonce:
            raise SecureAggregationError(f"client {self.client} takes no part in this attempt")
        if self.step != step:
            raise SecureAggregationError(f"the last step of client {self.client} is `{self.step}`, not `{step}`")
        return self.attempt

    def in_roster(self, step: str, nonce: bytes) -> tuple[Attempt, Roster]:
        """The attempt and its roster; errors are those of `in_attempt`."""
        attempt = self.in_attempt(step, nonce)
        if self.roster is None:
            raise SecureAggregationError(f"client {self.client} has no roster")
        return attempt, self.roster


def advertise(memory: MaskingState, attempt: Attempt, values: int) -> tuple[MaskingState, bytes]:
    """Fresh keys, `fedfm.secure.attempt.ADVERTISED_BYTES`.

    Args:
        memory: of the client.
        attempt: as the server announced it.
        values: P, the length of this client's vector.

    Raises:
        SecureAggregationError: the attempt is an old one, does not name the client, names a client twice or too few, or
            has vectors of another length.
    """
    before, clients = memory.attempt, attempt.clients
    if before is not None and (attempt.nonce == before.nonce or attempt.round < before.round):
        raise SecureAggregationError(
            f"client {memory.client} has already taken part in this attempt, or in a later one"
        )
    if memory.client not in clients or list(clients) != sorted(set(clients)):
        raise SecureAggregationError("the attempt does not name the client, or names a client twice")
    if len(clients) < attempt.terms.min_clients:
        raise SecureAggregationError(too_few(len(clients), "are asked", attempt.terms))
    if attempt.values != values:
        raise SecureAggregationError(f"the attempt sums {attempt.values} values, and the client has {values}")
    sealing, masking = new_secret(), new_secret()
    keys = Advertised(memory.client, agreement_key(sealing), agreement_key(masking), identity_key(memory.identity), b"")
    signed = replace(keys, signature=sign(memory.identity, keys.signed(attempt)))
    after = MaskingState(
        memory.client, memory.identity, memory.known, ADVERTISED, attempt, sealing, masking, new_secret()
    )
    return after, signed.encode()


def share(memory: MaskingState, nonce: bytes, content: bytes) -> tuple[MaskingState, list[bytes]]:
    """Sealed shares for each neighbour in turn, `SHARES_BYTES` each.

    Args:
        memory: of the client.
        nonce: of the attempt.
        content: the roster, as the server sent it.

    Raises:
        SecureAggregationError: it is not this step's turn; `Roster.check` refuses the roster; it has other keys for the
            client; or a client has another identity than before.
    """
    roster = Roster.decode(memory.in_attempt(ADVERTISED, nonce), content)
    roster.check()
    own = roster.keys.get(memory.client)
    if own is None or (own.sealing, own.masking, own.identity) != (
        agreement_key(memory.sealing),
        agreement_key(memory.masking),
        identity_key(memory.identity),
    ):
        raise SecureAggregationError(f"the roster does not have the keys of client {memory.client}")
    seen = {client: keys.identity.hex() for client, keys in roster.keys.items()}
    if strange := sorted(client for client in seen if memory.known.get(client, seen[client]) != seen[client]):
        raise SecureAggregationError(f"client {strange[0]} has another identity than when it was first seen")
    neighbors, least = roster.neighbors[memory.client], roster.least
    masking, seeds = (split(secret, least, len(neighbors)) for secret in (memory.masking, memory.seed))
    sealed = [
        seal(sealing_key(memory.sealing, roster, memory.client, to), masking[place] + seeds[place])
        for place, to in enumerate(neighbors)
    ]
    return replace(memory, step=SHARED, roster=roster, known={**memory.known, **seen}), sealed


def mask(
    memory: MaskingState, nonce: bytes, sharers: Sequence[str], vector: Masked
) -> tuple[MaskingState, Masked, bytes]:
    """The masked vector, and what the client says of it, `PROOF_BYTES`.

    Args:
        memory: of the client.
        nonce: of the attempt.
        sharers: clients whose shares the server has, sorted.
        vector: that is summed.

    Raises:
        SecureAggregationError: it is not this step's turn, so that the keys may have masked something already; or too
            few of the neighbours, or of all clients, have shared.
    """
    attempt, roster = memory.in_roster(SHARED, nonce)
    if memory.client not in sharers or list(sharers) != sorted(set(sharers)) or not set(sharers) <= roster.keys.keys():
        raise SecureAggregationError("the sharers are not clients of the roster, or the client is none of them")
    if len(sharers) < attempt.terms.min_clients:
        raise SecureAggregationError(too_few(len(sharers), "have shared", attempt.terms))
    partners = [other for other in roster.neighbors[memory.client] if other in set(sharers)]
    if len(partners) < roster.least:
        raise SecureAggregationError(f"{len(partners)} neighbours have shared, fewer than the {roster.least} needed")
    if len(vector.values) != attempt.values:
        raise SecureAggregationError(f"the vector has {len(vector.values)} values, not {attempt.values}")
    masked = vector.copy()
    masked.mask(self_key(memory.seed, roster.digest))
    for other in partners:
        key = pair_key(memory.masking, roster.keys[other].masking, roster.digest)
        masked.mask(key, negative=is_negative(memory.client, other))
    committed, vector_digest = commitment(memory.seed, roster), hashlib.sha256(masked.tobytes()).digest()
    signature = sign(memory.identity, masked_text(roster, sharers, memory.client, committed + vector_digest))
    after = replace(memory, step=MASKED, sharers=tuple(sharers))
    return after, masked, committed + vector_digest + signature


def confirm(memory: MaskingState, nonce: bytes, named: Survivors) -> tuple[MaskingState, bytes]:
    """The client's signature of the list, `SIGNATURE_BYTES`; it signs one list in an attempt.

    Raises:
        SecureAggregationError: it is not this step's turn; a client is named as both alive and dead, or as neither; too
            few are alive, in all or of its neighbours; or the server's signature, or what a client said of its vector,
            is wrong.
    """
    attempt, roster = memory.in_roster(MASKED, nonce)
    alive, dead = set(named.alive), set(named.dead)
    if both := sorted(alive & dead):
        raise SecureAggregationError(f"client {both[0]} is named as alive and as dead: both shares are never given")
    if alive | dead != set(memory.sharers) or memory.client not in alive:
        raise SecureAggregationError("the clients that are alive or dead are not those that shared")
    if len(alive) < attempt.terms.min_clients:
        raise SecureAggregationError(too_few(len(alive), "are in the sum", attempt.terms))
    present = [other for other in roster.neighbors[memory.client] if other in alive]
    if len(present) < roster.least:
        raise SecureAggregationError(f"{len(present)} neighbours are in the sum, fewer than the {roster.least} needed")
    verify(attempt.server, named.signature, survivors_text(roster, named.alive, named.dead), "the server")
    for other in present:
        said = named.proofs.get(other, b"")
        text = masked_text(roster, memory.sharers, other, said[: 2 * KEY_BYTES])
        verify(roster.keys[other].identity, said[2 * KEY_BYTES :], text, f"client {other}")
    signature = sign(memory.identity, confirmed_text(roster, named.alive, named.dead))
    return replace(memory, step=CONFIRMED, alive=named.alive), signature


def unmask(memory: MaskingState, nonce: bytes, request: Unmasking) -> tuple[MaskingState, list[bytes]]:
    """One share for each neighbour in turn, `KEY_BYTES` each, zeros for those that did not share.

    Raises:
        SecureAggregationError: it is not this step's turn, so that a request may have been answered already; too few
            clients in the sum have signed the list that this client signed; or a share cannot be unsealed.
    """
    attempt, roster = memory.in_roster(CONFIRMED, nonce)
    alive, sharers = set(memory.alive), set(memory.sharers)
    text = confirmed_text(roster, memory.alive, sorted(sharers - alive))
    for client, signature in request.confirmed.items():
        if client not in alive:
            raise SecureAggregationError(f"client {client} confirms a sum that it is not in")
        verify(roster.keys[client].identity, signature, text, f"client {client}")
    if len(request.confirmed) < roster.quorum:
        raise SecureAggregationError(
            f"{len(request.confirmed)} clients confirm the list of clients in the sum, fewer than the {roster.quorum} "
            "needed"
        )
    found = []
    for other in roster.neighbors[memory.client]:
        if other not in sharers:
            found.append(bytes(KEY_BYTES))
            continue
        key = sealing_key(memory.sealing, roster, other, memory.client)
        pair = unseal(key, request.sealed.get(other, b""))
        found.append(pair[KEY_BYTES:] if other in alive else pair[:KEY_BYTES])
    return MaskingState(memory.client, memory.identity, memory.known, IDLE, attempt), found


def sealing_key(secret: bytes, roster: Roster, sender: str, receiver: str) -> bytes:
    """The key of what ``sender`` seals for ``receiver``, from the sealing secret of one of them."""
    mine = agreement_key(secret)
    other = receiver if roster.keys[sender].sealing == mine else sender
    purpose = digest_of("fedfm secure shares", sender, receiver)
    return agree(secret, roster.keys[other].sealing, roster.digest, purpose)


def commitment(seed: bytes, roster: Roster) -> bytes:
    """What fixes b without telling it, so that a wrong share is found."""
    return derive(seed, roster.digest, b"fedfm secure commitment")
