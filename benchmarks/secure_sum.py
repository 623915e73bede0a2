"""Seconds and exactness of secure sums: one attempt of the protocol, without training and without a network.

python benchmarks/secure_sum.py                      # 100 clients, 300,000 values each, 0 and 30 % drop out
python benchmarks/secure_sum.py --clients 20 --values 10000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fedfm.secure.attempt import Attempt
from fedfm.secure.grid import FACTS, dither, encode_facts
from fedfm.secure.masking_client import MaskingState, advertise, confirm, mask, share, unmask
from fedfm.secure.masks import Masked
from fedfm.secure.summing_server import SummingServer
from fedfm.secure.terms import Terms
from fedfm.secure.unmasking import Survivors, Unmasking

SPENT = {"server": 0.0, "clients": 0.0}


@contextmanager
def booked(who: str) -> Iterator[None]:
    """Books CPU seconds of a block."""
    before = time.process_time()
    yield
    SPENT[who] += time.process_time() - before


def attempt(clients: int, values: int, gone: int) -> bool:
    """Plays one attempt in which some clients are lost after sharing; whether the sum is exact."""
    everyone, terms = [f"client-{place:05d}" for place in range(clients)], Terms(weight=1000.0)
    server = SummingServer(terms, 1, everyone, values)
    told, nonce = server.attempt.encode(), server.attempt.nonce
    memories, keys = {}, {}
    with booked("clients"):
        for client in everyone:
            memories[client], keys[client] = advertise(MaskingState.new(client), Attempt.decode(told, terms), values)
    with booked("server"):
        roster = server.enroll(keys).encode()
    for client in everyone:
        with booked("clients"):
            memories[client], sealed = share(memories[client], nonce, roster)
        with booked("server"):
            server.keep(client, sealed)
    with booked("server"):
        server.require_sharers()
    generator = np.random.default_rng(0)
    expected = np.zeros(values, dtype=server.grid.dtype)
    for client in sorted(generator.permutation(everyone)[gone:].tolist()):
        update, weight = generator.normal(0, 1e-3, values), int(generator.integers(1, 1000))
        with booked("clients"):
            words = server.grid.encode(update, weight, dither(values, seed=0, round=1, client=client))
            vector = Masked(encode_facts(dict.fromkeys(FACTS, 1.0)), words)
            memories[client], masked, proof = mask(memories[client], nonce, server.sharers, vector)
        expected += words
        with booked("server"):
            server.add(client, masked, proof)
    with booked("server"):
        named = {client: survivors.encode() for client, survivors in server.survivors().items()}
    for client, survivors in named.items():
        with booked("clients"):
            memories[client], signature = confirm(memories[client], nonce, Survivors.decode(survivors))
        with booked("server"):
            server.confirm(client, signature)
    with booked("server"):
        requests = {client: request.encode() for client, request in server.requests().items()}
    shares = {}
    with booked("clients"):
        for client, request in requests.items():
            _, shares[client] = unmask(memories[client], nonce, Unmasking.decode(request))
    with booked("server"):
        total = server.total(shares)
    return bool((total.values == expected).all())


def main() -> None:
    """Plays an attempt for each share of clients that drop out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--values", type=int, default=300_000)
    parser.add_argument("--gone", type=float, nargs="*", default=[0.0, 0.3], help="shares that drop out")
    asked = parser.parse_args()
    for part in asked.gone:
        SPENT.update(server=0.0, clients=0.0)
        exact = attempt(asked.clients, asked.values, round(part * asked.clients))
        each = SPENT["clients"] / asked.clients
        print(f"{part:4.0%} gone: server {SPENT['server']:.1f} s, a client {each:.2f} s of CPU; sum exact: {exact}")


if __name__ == "__main__":
    main()
