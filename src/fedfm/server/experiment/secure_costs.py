"""Bytes of a secure sum, before any key is there."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fedfm.clients import Contract
from fedfm.clients.masking import SECURE, Masking, byte_rows, length, words_spec
from fedfm.spec import Spec


def secure_bytes(contract: Contract, masking: Masking, clients: Sequence[str], number: int) -> tuple[int, int]:
    """Bytes of what one client gets in a round beside the tunable, and of all that it sends.

    Args:
        contract: what crosses.
        masking: the recipe's secure sums.
        clients: of a round.
        number: 1-based round.
    """
    from fedfm.secure.attempt import ADVERTISED_BYTES, NONCE_BYTES
    from fedfm.secure.grid import FACTS
    from fedfm.secure.masking_client import PROOF_BYTES, SHARES_BYTES
    from fedfm.secure.primitives import KEY_BYTES, SIGNATURE_BYTES

    first, degree, terms = clients[0], masking.terms.degree(len(clients)), masking.terms
    values = length(contract.returns(first, number))
    nonce: Spec = {"nonce": byte_rows(NONCE_BYTES)}
    attempt = [number, "0" * 2 * NONCE_BYTES, list(clients), "0" * 2 * KEY_BYTES, values]
    roster = [[client, "0" * 2 * ADVERTISED_BYTES] for client in clients]
    proofs, shares = (dict.fromkeys(clients[:degree], "0" * 2 * size) for size in (PROOF_BYTES, SHARES_BYTES))
    signature = "0" * 2 * SIGNATURE_BYTES
    survivors = [list(clients), [], signature, proofs]
    request = [dict.fromkeys(clients[: terms.least(len(clients))], signature), shares]
    told = [attempt, roster, list(clients), survivors, request]
    sent: list[Spec] = [
        {"keys": byte_rows(ADVERTISED_BYTES)},
        {"shares": byte_rows(degree, SHARES_BYTES)},
        words_spec(values, terms.bits, len(FACTS), PROOF_BYTES),
        {"signature": byte_rows(SIGNATURE_BYTES)},
        {"shares": byte_rows(degree, KEY_BYTES)},
    ]
    down = 0
    for place, message in enumerate(told):
        spec = {"message": byte_rows(len(json.dumps(message))), **(nonce if place else {})}
        down += contract.request_bytes(number, {SECURE: spec})
    return down, sum(contract.answer_bytes(first, number, {SECURE: spec}) for spec in sent)
