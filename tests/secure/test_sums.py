"""Sums are exact whoever drops out; below a threshold, or asked for too much, parties refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedfm.secure.attempt import Advertised, Attempt, Roster, neighbor_graph
from fedfm.secure.grid import dither
from fedfm.secure.masking_client import MaskingState, advertise, confirm, mask, share, unmask
from fedfm.secure.primitives import SecureAggregationError, identity_key, new_secret, sign
from fedfm.secure.summing_server import SummingServer
from fedfm.secure.terms import Terms
from fedfm.secure.unmasking import Survivors, Unmasking, survivors_text
from tests.secure.summing import Played, names, vector_of

SPARSE = Terms(neighbors=12, min_clients=5)
"""Five clients of 19 may be lost: each of the others still has 7 of its 12 neighbours."""
VALUES = 50


def vectors(clients: int, values: int = VALUES, *, dtype: str = "<u4") -> dict[str, np.ndarray]:
    generator = np.random.default_rng(7)
    high = np.iinfo(dtype).max
    return {name: generator.integers(0, high, values, dtype=dtype, endpoint=True) for name in names(clients)}


def test_the_sum_is_exact_with_dropouts_at_every_step():
    """20 clients in a sparse graph; 30 % are lost over the five steps, and the sum is that of those that masked."""
    inputs, everyone = vectors(20), names(20)
    played = Played.begin(20, VALUES, SPARSE)
    played.advertise(gone=everyone[:1])
    played.share(gone=everyone[3:4])
    played.mask(inputs, gone=[everyone[8], everyone[14]])
    played.confirm(gone=[everyone[5]])
    total = played.unmask(gone=[everyone[17]])
    alive = [name for place, name in enumerate(everyone) if place not in (0, 3, 8, 14)]
    assert played.server.alive == tuple(alive)
    assert (total.values == sum(inputs[name] for name in alive)).all()
    assert total.facts[0] == len(alive)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("neighbors", [None, 14])
def test_weighted_sums_are_exact_to_the_quantisation_step(share: float, neighbors: int | None):
    """Each client adds at most one step of rounding to Σ w·x; clients are lost before and after they mask."""
    everyone, generator = names(20), np.random.default_rng(3)
    terms = Terms(neighbors=neighbors, min_clients=5, clip=0.5, weight=100.0)
    lost = generator.permutation(everyone)[: round(20 * share)].tolist()
    updates = {name: generator.normal(0, 0.1, VALUES) for name in everyone}
    weights = {name: float(generator.integers(1, 100)) for name in everyone}
    played = Played.begin(20, VALUES, terms)
    grid = played.server.grid
    words = {
        name: grid.encode(update, weights[name], dither(VALUES, seed=0, round=1, client=name))
        for name, update in updates.items()
    }
    played.advertise()
    played.share()
    played.mask(words, gone=lost[::2])
    played.confirm(gone=lost[1::4])
    total = played.unmask(gone=lost[3::4])
    alive = [name for name in everyone if name not in lost[::2]]
    assert played.server.alive == tuple(alive)
    assert (total.values == sum(words[name] for name in alive)).all()
    error = grid.decode(total.values) - sum(weights[name] * updates[name].clip(-0.5, 0.5) for name in alive)
    assert np.abs(error).max() <= len(alive) * grid.step


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_a_full_graph_sums_modulo_both_word_sizes(dtype: str):
    inputs = vectors(5, dtype=dtype)
    played = Played.begin(5, VALUES, Terms(min_clients=3, bits=int(dtype[-1]) * 8))
    played.advertise()
    played.share()
    played.mask(inputs, gone=[names(5)[2]])
    played.confirm()
    total = played.unmask()
    assert total.values.dtype == np.dtype(dtype)
    assert (total.values == sum(x for name, x in inputs.items() if name != names(5)[2])).all()


def test_below_the_threshold_nothing_is_asked_and_nothing_is_given():
    inputs, everyone = vectors(9), names(9)
    played = Played.begin(9, VALUES, Terms(min_clients=5))
    played.advertise()
    played.share()
    played.mask(inputs, gone=everyone[4:])
    with pytest.raises(SecureAggregationError, match=r"only 4 clients are in the sum, fewer than secure.min_clients"):
        played.confirm()
    alive, dead = tuple(everyone[:4]), tuple(everyone[4:])
    with pytest.raises(SecureAggregationError, match="min_clients"):
        confirm(played.memories[everyone[0]], played.nonce, named(played, alive, dead))


def test_too_few_shares_unmask_nothing():
    """One helper fewer than the threshold leaves the sum masked, and those that helped do not help twice."""
    inputs = vectors(7)
    played = Played.begin(7, VALUES, Terms(min_clients=5))
    played.advertise()
    played.share()
    played.mask(inputs)
    played.confirm()
    least = played.server.roster.least
    assert least == 4
    with pytest.raises(SecureAggregationError, match=r"[23] shares of a secret are fewer than the 4"):
        played.unmask(gone=names(7)[3:])
    assert not (played.server._sum.values == sum(inputs.values())).any()


def named(played: Played, alive: tuple[str, ...], dead: tuple[str, ...], **changes: object) -> Survivors:
    """What a server that does not keep to the protocol tells a client."""
    server = played.server
    signature = sign(server._secret, survivors_text(server.roster, alive, dead))
    return replace(Survivors(alive, dead, signature, dict(server._proofs)), **changes)


def asked(played: Played, client: str, confirmed: dict[str, bytes]) -> Unmasking:
    """A request to a client with these confirmations."""
    server = played.server
    return Unmasking(confirmed, {other: server._sealed[other][client] for other in server.roster.neighbors[client]})


@pytest.fixture
def masked() -> Played:
    played = Played.begin(9, VALUES, Terms(min_clients=5))
    played.advertise()
    played.share()
    played.mask(vectors(9), gone=names(9)[7:])
    return played


def test_a_server_that_asks_for_both_shares_is_refused(masked: Played):
    everyone = names(9)
    alive, dead = tuple(everyone[:7]), tuple(everyone[6:])
    with pytest.raises(SecureAggregationError, match="client-006 is named as alive and as dead"):
        confirm(masked.memories[everyone[0]], masked.nonce, named(masked, alive, dead))


def test_a_second_list_and_a_second_request_of_an_attempt_are_refused(masked: Played):
    """A server cannot ask for the mask of a client first, and then name it as dead."""
    everyone = names(9)
    masked.confirm()
    first = everyone[0]
    with pytest.raises(SecureAggregationError, match="last step of client client-000 is `confirmed`, not `masked`"):
        confirm(masked.memories[first], masked.nonce, named(masked, tuple(everyone[:6]), tuple(everyone[6:])))
    request = masked.server.requests()[first]
    after, given = unmask(masked.memories[first], masked.nonce, request)
    assert all(len(share) == 32 for share in given)
    assert (after.sealing, after.masking, after.seed) == (b"", b"", b"")
    with pytest.raises(SecureAggregationError, match="last step of client client-000 is `idle`, not `confirmed`"):
        unmask(after, masked.nonce, request)


def test_nothing_is_unmasked_that_was_not_confirmed(masked: Played):
    first = names(9)[0]
    with pytest.raises(SecureAggregationError, match="last step of client client-000 is `masked`, not `confirmed`"):
        unmask(masked.memories[first], masked.nonce, asked(masked, first, {}))
    masked.confirm(gone=names(9)[4:7])
    with pytest.raises(SecureAggregationError, match="have confirmed the sum, fewer than"):
        masked.server.requests()
    for confirmed in ({}, masked.server._confirmed):
        with pytest.raises(
            SecureAggregationError, match=rf"{len(confirmed)} clients confirm .* fewer than the 5 needed"
        ):
            unmask(masked.memories[first], masked.nonce, asked(masked, first, dict(confirmed)))
    outsider = {**masked.server._confirmed, names(9)[8]: bytes(64)}
    with pytest.raises(SecureAggregationError, match="client-008 confirms a sum that it is not in"):
        unmask(masked.memories[first], masked.nonce, asked(masked, first, outsider))
    forged = {**masked.server._confirmed, names(9)[4]: bytes(64)}
    with pytest.raises(SecureAggregationError, match="a signature is not that of client client-004"):
        unmask(masked.memories[first], masked.nonce, asked(masked, first, forged))
    with pytest.raises(SecureAggregationError, match="a signature is not that of client client-005"):
        masked.server.confirm(names(9)[5], bytes(64))


def test_a_server_that_tells_clients_different_lists_unmasks_neither():
    """In a sparse graph, where most clients have no neighbour in common: each list has the signatures of half of them.

    Without the signatures, the clients that hold the shares of a victim's neighbours would give those of masking keys
    to one list, and those of masks to the other; together they take off all that hides the victim.
    """
    inputs, everyone = vectors(20), names(20)
    played = Played.begin(20, VALUES, SPARSE)
    played.advertise()
    played.share()
    played.mask(inputs)
    roster = played.server.roster
    victim = everyone[0]
    lost = roster.neighbors[victim][:5]
    lists = [(tuple(everyone), ()), (tuple(name for name in everyone if name not in lost), tuple(lost))]
    halves = [everyone[::2], [name for name in everyone[1::2] if name not in lost]]
    signatures: list[dict[str, bytes]] = []
    for (alive, dead), half in zip(lists, halves, strict=True):
        signed = {}
        for client in half:
            played.memories[client], signed[client] = confirm(
                played.memories[client], played.nonce, named(played, alive, dead)
            )
        signatures.append(signed)
    assert roster.quorum == 11
    for place, half in enumerate(halves):
        client, own, other = half[0], signatures[place], signatures[1 - place]
        with pytest.raises(SecureAggregationError, match=r"clients confirm .* fewer than the 11 needed"):
            unmask(played.memories[client], played.nonce, asked(played, client, own))
        with pytest.raises(SecureAggregationError, match="a signature is not that of"):
            unmask(played.memories[client], played.nonce, asked(played, client, {**own, **other}))


def test_a_quorum_of_a_higher_threshold_withstands_clients_that_sign_both_lists():
    """Two lists of n clients, c of which sign both, need 2·quorum signatures, and there are n + c."""
    for clients in range(5, 200):
        assert 2 * Terms().least(clients) > clients
        assert 2 * Terms(threshold=0.75).least(clients) > clients + clients // 2


def test_an_unsigned_list_is_refused(masked: Played):
    alive, dead = tuple(names(9)[:7]), tuple(names(9)[7:])
    with pytest.raises(SecureAggregationError, match="a signature is not that of the server"):
        confirm(masked.memories[names(9)[0]], masked.nonce, named(masked, alive, dead, signature=bytes(64)))


def test_a_client_that_did_not_mask_cannot_be_called_alive(masked: Played):
    """Only a client itself can say that its vector is there: the server cannot get the mask of one that is away."""
    alive, dead = tuple(names(9)[:8]), tuple(names(9)[8:])
    with pytest.raises(SecureAggregationError, match="a signature is not that of client client-007"):
        confirm(masked.memories[names(9)[0]], masked.nonce, named(masked, alive, dead))


@pytest.mark.parametrize(("alive", "dead"), [(7, 8), (6, 7)])
def test_the_alive_and_the_dead_are_those_that_shared(masked: Played, alive: int, dead: int):
    everyone = names(9)
    with pytest.raises(SecureAggregationError, match="are not those that shared"):
        confirm(
            masked.memories[everyone[0]], masked.nonce, named(masked, tuple(everyone[:alive]), tuple(everyone[dead:]))
        )


def test_a_second_vector_under_one_key_is_refused(masked: Played):
    memory, sharers = masked.memories[names(9)[0]], masked.server.sharers
    with pytest.raises(SecureAggregationError, match="last step of client client-000 is `masked`, not `shared`"):
        mask(memory, masked.nonce, sharers, vector_of(vectors(9)[names(9)[0]]))


def test_the_server_takes_one_vector_a_client_as_it_was_signed(masked: Played):
    first = names(9)[0]
    with pytest.raises(SecureAggregationError, match="in the sum already"):
        masked.server.add(first, masked.masked[first], masked.proofs[first])
    fresh = Played.begin(9, VALUES, Terms(min_clients=5))
    fresh.advertise()
    fresh.share()
    _, vector, proof = mask(fresh.memories[first], fresh.nonce, fresh.server.sharers, vector_of(vectors(9)[first]))
    vector.values[3] += 1
    with pytest.raises(SecureAggregationError, match="what it says of its masked vector is wrong"):
        fresh.server.add(first, vector, proof)


def test_the_replay_of_an_attempt_is_refused():
    played = Played.begin(5, VALUES, Terms())
    played.advertise()
    attempt, memory = played.server.attempt, played.memories[names(5)[0]]
    with pytest.raises(SecureAggregationError, match="already taken part in this attempt"):
        advertise(memory, attempt, VALUES)
    with pytest.raises(SecureAggregationError, match="or in a later one"):
        advertise(memory, replace(attempt, round=0, nonce=bytes(16)), VALUES)
    with pytest.raises(SecureAggregationError, match="takes no part in this attempt"):
        share(memory, bytes(16), played.roster)


def test_every_attempt_has_fresh_keys_and_one_identity():
    first = Played.begin(5, VALUES, Terms())
    first.advertise()
    second = Played.begin(5, VALUES, Terms(), first.memories)
    second.advertise()
    a, b = (played.server.roster.keys[names(5)[0]] for played in (first, second))
    assert a.identity == b.identity
    assert len({a.sealing, a.masking, b.sealing, b.masking}) == 4
    assert first.nonce != second.nonce


def test_a_forged_signature_leaves_a_client_out_and_a_changed_roster_is_refused():
    played = Played.begin(6, VALUES, Terms())
    told = played.server.attempt
    keys = {}
    for client in names(6):
        played.memories[client], keys[client] = advertise(played.memories[client], told, VALUES)
    keys[names(6)[5]] = keys[names(6)[5]][:-1] + bytes([keys[names(6)[5]][-1] ^ 1])
    roster = played.server.enroll(keys)
    assert [member.client for member in roster.members] == names(6)[:5]
    other = Advertised.decode(names(6)[1], keys[names(6)[2]])
    changed = Roster(told, (roster.members[0], other, *roster.members[2:]))
    with pytest.raises(SecureAggregationError, match=r"occurs twice|is not that of client client-001"):
        share(played.memories[names(6)[0]], played.nonce, changed.encode())


def test_a_client_keeps_to_the_identities_that_it_has_seen():
    """A server that puts a key of its own in place of a client's is found out from the second attempt on."""
    first = Played.begin(5, VALUES, Terms())
    first.advertise()
    first.share()
    impostor = names(5)[4]
    second = Played.begin(5, VALUES, Terms(), {**first.memories, impostor: MaskingState.new(impostor)})
    second.advertise()
    with pytest.raises(SecureAggregationError, match="client client-004 has another identity than when it was first"):
        share(second.memories[names(5)[0]], second.nonce, second.roster)


def test_clients_that_were_shown_different_rosters_unseal_nothing():
    """The roster is part of every key: a server that shows two of them gets no share."""
    played = Played.begin(6, VALUES, Terms(min_clients=5))
    told = played.server.attempt
    keys = {}
    for client in names(6):
        played.memories[client], keys[client] = advertise(played.memories[client], told, VALUES)
    played.roster = played.server.enroll(keys).encode()
    shorter = Roster(told, played.server.roster.members[:5]).encode()
    first = names(6)[0]
    for client in names(6)[1:]:
        played.memories[client], sealed = share(played.memories[client], played.nonce, played.roster)
        played.server.keep(client, sealed)
    played.memories[first], sealed = share(played.memories[first], played.nonce, shorter)
    played.server.keep(first, [*sealed, bytes(80)])
    inputs = vectors(6)
    for client in names(6)[1:]:
        vector = vector_of(inputs[client])
        played.memories[client], masked, proof = mask(
            played.memories[client], played.nonce, played.server.sharers, vector
        )
        played.server.add(client, masked, proof)
    played.confirm()
    request = played.server.requests()[names(6)[1]]
    with pytest.raises(SecureAggregationError, match="was changed, or was sealed for another roster"):
        unmask(played.memories[names(6)[1]], played.nonce, request)


def test_wrong_shares_are_found():
    played = Played.begin(5, VALUES, Terms())
    played.advertise()
    played.share()
    played.mask(vectors(5))
    played.confirm()
    played.unmask()
    played.shares[names(5)[0]] = [bytes(32)] * 4
    with pytest.raises(SecureAggregationError, match="do not fit each other"):
        played.server.total(played.shares)


def test_a_masked_vector_looks_uniform():
    """χ² of the bytes of one masked vector of zeros, at the 10⁻⁶ level; the vector without masks fails it by far."""
    played = Played.begin(5, 20_000, Terms())
    played.advertise()
    played.share()
    zeros = dict.fromkeys(names(5), np.zeros(20_000, dtype="<u4"))
    played.mask(zeros)
    for seen in played.masked.values():
        counts = np.bincount(np.frombuffer(seen.values.tobytes(), dtype=np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
    assert stats.chisquare(np.bincount(np.zeros(80_000, dtype=np.uint8), minlength=256)).pvalue < 1e-6
    assert not np.array_equal(*[played.masked[name].values for name in names(5)[:2]])


def test_masks_differ_between_attempts_with_the_same_vector():
    seen = []
    memories: dict[str, MaskingState] = {}
    for _ in range(2):
        played = Played.begin(5, VALUES, Terms(), memories)
        played.advertise()
        played.share()
        played.mask(vectors(5))
        played.confirm()
        total = played.unmask()
        seen.append(played.masked[names(5)[0]].values)
        memories = played.memories
    assert not (seen[0] == seen[1]).any()
    assert (total.values == sum(vectors(5).values())).all()


def test_a_client_remembers_across_restarts():
    terms = Terms()
    played = Played.begin(5, VALUES, terms)
    played.advertise()
    played.share()
    played.mask(vectors(5))
    for client, memory in played.memories.items():
        assert MaskingState.decode(client, memory.encode(), terms) == memory
    played.confirm()
    for client, memory in played.memories.items():
        assert MaskingState.decode(client, memory.encode(), terms) == memory
    played.unmask()
    for client, memory in played.memories.items():
        again = MaskingState.decode(client, memory.encode(), terms)
        assert again == memory
        assert again.step == "idle"


def test_the_graph_is_regular_symmetric_and_connected():
    clients, degree = names(40), 8
    graph = neighbor_graph(clients, degree, b"key")
    assert all(len(its) == degree == len(set(its)) and own not in its for own, its in graph.items())
    assert all(own in graph[other] for own, its in graph.items() for other in its)
    reached, edge = {clients[0]}, {clients[0]}
    while edge:
        edge = {other for own in edge for other in graph[own]} - reached
        reached |= edge
    assert len(reached) == 40
    assert neighbor_graph(clients, degree, b"another key") != graph
    assert neighbor_graph(clients[:5], degree, b"key")[clients[0]] == tuple(clients[1:5])


def test_the_announcement_binds_the_server_and_the_recipe():
    """Clients whose recipes differ in a term, such as the threshold, have other contexts: no signature is right."""
    attempt = SummingServer(Terms(), 1, names(5), VALUES).attempt
    other = Attempt.decode(attempt.encode(), Terms(threshold=0.75))
    assert other.context != attempt.context
    memory, keys = advertise(MaskingState.new(names(5)[0]), other, VALUES)
    assert identity_key(memory.identity) == Advertised.decode(names(5)[0], keys).identity
    with pytest.raises(SecureAggregationError, match="is not that of client client-000"):
        Advertised.decode(names(5)[0], keys).check(attempt)


@pytest.mark.parametrize(
    ("clients", "values", "reason"),
    [
        (names(4), VALUES, "only 4 clients are asked"),
        (names(6)[1:], VALUES, "does not name"),
        (names(5), 9, "9 values"),
    ],
)
def test_a_client_takes_no_part_in_a_bad_attempt(clients: list[str], values: int, reason: str):
    attempt = SummingServer(Terms(), 1, clients, values).attempt
    with pytest.raises(SecureAggregationError, match=reason):
        advertise(MaskingState(names(5)[0], new_secret()), attempt, VALUES)
