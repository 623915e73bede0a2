"""Known answers of the primitives, and where randomness comes from."""

from __future__ import annotations

import ast
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import fedfm.secure
from fedfm.secure import primitives
from fedfm.secure.grid import FACTS, Grid, decode_facts, dither, encode_facts
from fedfm.secure.masks import Masked, pair_key, self_key
from fedfm.secure.primitives import SecureAggregationError, agreement_key, join, keystream, new_secret, split

ROOM = Path(fedfm.secure.__file__).parent


def test_the_keystream_is_that_of_rfc_8439():
    """Appendix A.1, test vectors 1 and 2: key and nonce 0, block counters 0 and 1."""
    assert keystream(bytes(32), 128).hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )


def test_key_agreement_is_that_of_rfc_7748():
    """Section 5.2: one step of the iteration, where scalar and point are the base point; and both ends agree."""
    base = bytes([9, *bytes(31)])
    assert agreement_key(base).hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    a, b = new_secret(), new_secret()
    key = pair_key(a, agreement_key(b), b"context")
    assert len(key) == 32
    assert key == pair_key(b, agreement_key(a), b"context")
    assert key != pair_key(a, agreement_key(b), b"another")


def test_a_public_key_of_low_order_is_refused():
    with pytest.raises(SecureAggregationError, match="low order"):
        pair_key(new_secret(), bytes(32), b"context")


def test_any_threshold_of_shares_joins_and_fewer_do_not():
    secret = new_secret()
    shares = dict(enumerate(split(secret, 3, 5), 1))
    for holders in combinations(shares, 3):
        assert join({holder: shares[holder] for holder in holders}, 3) == secret
    with pytest.raises(SecureAggregationError, match="2 shares of a secret are fewer than the 3"):
        join({1: shares[1], 2: shares[2]}, 3)
    assert join({1: shares[1], 2: shares[2]}, 2) != secret


def test_seeds_have_256_bits_so_that_folding_attacks_fail():
    """Masks depend on every bit of a 256-bit key; flwr 1.41 folds a seed to 32 bits, of which 28 are free.

    Folding is the XOR of the 32-bit words of a key: keys that such a fold cannot tell apart must give other masks.
    """
    key = bytearray(self_key(new_secret(), b"context"))
    assert len(key) == 32
    plain = keystream(bytes(key), 64)
    for bit in range(256):
        changed = bytearray(key)
        changed[bit // 8] ^= 1 << bit % 8
        alike = bytearray(changed)
        alike[(bit // 8 + 4) % 32] ^= 1 << bit % 8
        folded = [int(np.bitwise_xor.reduce(np.frombuffer(bytes(k), dtype="<u4"))) for k in (key, alike)]
        assert folded[0] == folded[1]
        assert keystream(bytes(alike), 64) != plain
        assert keystream(bytes(changed), 64) != plain
    seed = bytearray(new_secret())
    before = self_key(bytes(seed), b"context")
    for bit in range(256):
        seed[bit // 8] ^= 1 << bit % 8
        assert self_key(bytes(seed), b"context") != before
        seed[bit // 8] ^= 1 << bit % 8


def test_brute_force_over_folded_seeds_finds_no_mask():
    """The attack on flwr 1.41: fold to 32 bits, guess, compare. It finds a mask that was drawn so, and none of ours."""
    key = self_key(new_secret(), b"context")
    folded = int(np.bitwise_xor.reduce(np.frombuffer(key, dtype="<u4")))
    guesses = range(folded - 512, folded + 512)  # an attacker would go through all 2³²

    def drawn(seed: int) -> bytes:
        return np.random.RandomState(seed % 2**32).randint(0, 2**32, 8, dtype=np.uint32).tobytes()

    assert [seed for seed in guesses if drawn(seed) == drawn(folded)] == [folded]
    ours = keystream(key, 32)
    assert ours not in map(drawn, guesses)
    assert all(keystream(seed.to_bytes(5, "little", signed=True).ljust(32, b"\0"), 32) != ours for seed in guesses)


def test_secrets_are_the_systems(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def urandom(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    monkeypatch.setattr(primitives.os, "urandom", urandom)
    assert new_secret() == bytes(32)
    assert asked == [32]


def test_no_generator_for_simulations_is_reachable():
    """No module of the room imports or names `random`, `numpy.random`, `torch` or a generator of fedfm's."""
    files = sorted(ROOM.glob("*.py"))
    assert len(files) >= 7
    for file in files:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {alias.name.partition(".")[0] for alias in node.names} & {"random", "torch"}, file
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("random", "numpy.random", "fedfm.randomness"), file
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("random", "default_rng", "RandomState"), file


@pytest.mark.parametrize("bits", [32, 64])
def test_the_grid_is_unbiased_and_never_wraps(bits: int):
    grid = Grid(clients=100, clip=0.5, weight=1000.0, bits=bits)
    largest = np.full(3, 7.0)
    total = np.zeros(3, dtype=grid.dtype)
    for _ in range(100):
        total += grid.encode(largest, 1000.0, np.full(3, 1 - 2.0**-32))
    assert np.allclose(grid.decode(total), 100 * 1000 * 0.5, rtol=1e-6)
    total[:] = 0
    for _ in range(100):
        total += grid.encode(-largest, 1000.0, np.zeros(3))
    assert np.allclose(grid.decode(total), -100 * 1000 * 0.5, rtol=1e-6)
    value = np.full(200_000, 0.25 * grid.step)
    rounded = grid.decode(grid.encode(value, 1.0, dither(200_000, seed=1, round=2, client="a"))) / grid.step
    assert set(np.unique(rounded)) == {0.0, 1.0}
    assert abs(rounded.mean() - 0.25) < 5 * (0.25 * 0.75 / 200_000) ** 0.5


def test_rounding_has_a_key():
    a = dither(100, seed=1, round=2, client="a")
    assert (a == dither(100, seed=1, round=2, client="a")).all()
    others = [dither(100, seed=2, round=2, client="a"), dither(100, seed=1, round=3, client="a")]
    others.append(dither(100, seed=1, round=2, client="b"))
    assert all((a != other).any() for other in others)
    assert 0 <= a.min() < a.max() < 1


def test_facts_are_summed_with_the_sign_of_the_loss():
    first = {"weight": 10, "examples": 10, "steps": 4, "samples": 32, "predictions": 32, "clipped": 1, "loss": -3.25}
    second = {"weight": 2**31, "examples": 2**31, "steps": 1, "samples": 8, "predictions": 8, "clipped": 0, "loss": 1.5}
    total = decode_facts(encode_facts(first) + encode_facts(second))
    assert total == {name: first[name] + second[name] for name in FACTS}


def test_masks_are_taken_off_exactly():
    vector = Masked(np.arange(6, dtype="<u8"), np.arange(100, dtype="<u4"))
    masked = vector.copy()
    masked.mask(bytes(32))
    assert (masked.values != vector.values).all()
    masked.mask(bytes(32), negative=True)
    assert masked.tobytes() == vector.tobytes()
