"""One attempt at a secure sum, as the server plays it: five exchanges, then the mean of those who stayed.

    advertise-keys       announce the attempt, gather public keys
    share-secrets        send the keys to all, gather sealed shares
    train-masked         send the tunable, add up masked updates
    confirm-survivors    say who is in the sum, gather signatures of that list
    unmask               send each client signatures and its shares, gather one share for each of its neighbours

`fedfm.secure.summing_server` decides; here its messages become payloads.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from fedfm.aggregation import Contribution
from fedfm.clients import Contract
from fedfm.clients.masking import (
    SECURE,
    Masking,
    byte_rows,
    bytes_of,
    length,
    means,
    message,
    tensor_of,
    words_spec,
)
from fedfm.clients.work.secure_sum import ADVERTISE, CONFIRM, MASK, SHARE, UNMASK
from fedfm.printable import line
from fedfm.protocols import Ask, ClientUpdate
from fedfm.secure.attempt import ADVERTISED_BYTES
from fedfm.secure.grid import FACTS, decode_facts
from fedfm.secure.masking_client import PROOF_BYTES, SHARES_BYTES
from fedfm.secure.masks import Masked
from fedfm.secure.primitives import KEY_BYTES, SIGNATURE_BYTES, SecureAggregationError
from fedfm.secure.summing_server import SummingServer
from fedfm.spec import Spec
from fedfm.updates import Done, MessageKey


class Asking(Protocol):
    """What an attempt may use of an exchange."""

    def ask(self, asks: Mapping[str, Ask], *, quorum: bool = True) -> Iterator[ClientUpdate]:
        """As `fedfm.protocols.IO.ask`."""
        ...

    def note(self, kind: str, client: str | None, reason: str) -> None:
        """As `fedfm.protocols.IO.note`."""
        ...


def secure_total(
    io: Asking, contract: Contract, masking: Masking, ask: Ask, clients: Sequence[str]
) -> ClientUpdate | str:
    """The mean of the clients' updates, or why this attempt failed.

    Args:
        io: of the round.
        contract: what crosses.
        masking: the recipe's secure sums.
        ask: what all clients are asked.
        clients: of the round, sorted.

    Raises:
        InterruptedRunError: the run was asked to stop.
    """
    try:
        return _attempt(io, contract, masking, ask, clients)
    except SecureAggregationError as error:
        return line(error)


def _attempt(io: Asking, contract: Contract, masking: Masking, ask: Ask, clients: Sequence[str]) -> ClientUpdate:
    first = clients[0]
    before = contract.before_path(first, ask.round)
    specs = contract.up.spec(before)
    server = SummingServer(masking.terms, ask.round, clients, length(specs))
    nonce = {"nonce": tensor_of(server.attempt.nonce)}

    small = replace(ask, params={}, extras={})
    expects: Spec = {"keys": byte_rows(ADVERTISED_BYTES)}
    told = _asking(small, ADVERTISE, expects, server.attempt.encode(), {})
    keys = {answer.client: bytes_of(answer.groups[SECURE]["keys"]) for answer in _all(io, clients, told)}
    roster = server.enroll(keys)

    expects = {"shares": byte_rows(roster.degree, SHARES_BYTES)}
    told = _asking(small, SHARE, expects, roster.encode(), nonce)
    for answer in _all(io, list(roster.keys), told):
        server.keep(answer.client, [bytes_of(row) for row in answer.groups[SECURE]["shares"]])
    server.require_sharers()

    sharers = server.sharers
    expects = words_spec(length(specs), masking.terms.bits, len(FACTS), PROOF_BYTES)
    told = _asking(ask, MASK, expects, json.dumps(sharers).encode(), nonce)
    for answer in _all(io, sharers, told):
        sent = answer.groups[SECURE]
        try:
            server.add(answer.client, Masked(sent["facts"].numpy(), sent["values"].numpy()), bytes_of(sent["proof"]))
        except SecureAggregationError as error:
            io.note("refused", answer.client, line(error))

    expects = {"signature": byte_rows(SIGNATURE_BYTES)}
    asks = {
        client: _asking(small, CONFIRM, expects, named.encode(), nonce) for client, named in server.survivors().items()
    }
    for answer in io.ask(asks, quorum=False):
        try:
            server.confirm(answer.client, bytes_of(answer.groups[SECURE]["signature"]))
        except SecureAggregationError as error:
            io.note("refused", answer.client, line(error))

    expects = {"shares": byte_rows(roster.degree, KEY_BYTES)}
    asks = {
        client: _asking(small, UNMASK, expects, request.encode(), nonce)
        for client, request in server.requests().items()
    }
    shares = {
        answer.client: [bytes_of(row) for row in answer.groups[SECURE]["shares"]]
        for answer in io.ask(asks, quorum=False)
    }
    return _mean(io, contract, ask, server, server.total(shares))


def _mean(io: Asking, contract: Contract, ask: Ask, server: SummingServer, total: Masked) -> ClientUpdate:
    """The mean of the clients in a sum without masks.

    Raises:
        SecureAggregationError: their weights are none.
    """
    alive, facts = server.alive, decode_facts(total.facts)
    if facts["weight"] < 1:
        raise SecureAggregationError("the sum of the clients' weights is not positive")
    if facts["clipped"]:
        values = len(alive) * server.attempt.values
        io.note("clipped", None, f"{facts['clipped']:.0f} of {values} values exceeded secure.clip ({server.grid.clip})")
    before = contract.before_path(alive[0], ask.round)
    encoded = means(
        server.grid.decode(total.values), contract.up.spec(before), weight=facts["weight"], clients=len(alive)
    )
    groups = contract.up.decode(encoded, before, MessageKey(contract.seed, ask.round))
    predictions = int(facts["predictions"])
    done = Done(
        client="",
        examples=int(facts["examples"]),
        steps=int(facts["steps"]),
        samples=int(facts["samples"]),
        predictions=predictions,
        loss=facts["loss"] / predictions if predictions else None,
    )
    contribution = Contribution("", int(facts["weight"]), int(facts["steps"]) // len(alive), copies=len(alive))
    return ClientUpdate("", groups, done, contribution, contract.held(alive[0], ask.round), alive)


def _asking(ask: Ask, work: str, expects: Spec, content: bytes, beside: Mapping[str, Tensor]) -> Ask:
    """What clients are asked for a step."""
    groups = {**ask.groups, SECURE: {**message(content), **beside}}
    return replace(ask, work=work, expects={SECURE: expects}, groups=groups)


def _all(io: Asking, clients: Collection[str], ask: Ask) -> Iterator[ClientUpdate]:
    """The answers of clients that are asked alike."""
    return io.ask(dict.fromkeys(clients, ask), quorum=False)
