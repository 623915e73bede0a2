"""Correlated noise against dense matrices, and against every way in which a client can take part."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedfm import resume, run
from fedfm.errors import RecipeError
from fedfm.privacy import Attendance, Central, statement
from fedfm.privacy.correlated import best_bands, coefficients, error, sensitivity
from fedfm.privacy.noise import KEY_BYTES, KEYS, CorrelatedNoise
from fedfm.recipe import load_recipe
from fedfm.recipe.federation import FederationSettings
from fedfm.records import jsonl
from fedfm.server.advice import Advice
from fedfm.server.advice.independent_noise import independent_noise
from tests.small import small_recipe


def inverse(bands: int, rounds: int) -> np.ndarray:
    """C⁻¹, dense: the lower triangular matrix whose square is that of differences, with p diagonals kept."""
    differences = np.eye(rounds) - np.eye(rounds, k=-1)
    root = np.eye(rounds)
    for row in range(1, rounds):  # the square root of a lower triangular matrix with a unit diagonal, entry by entry
        for column in range(row - 1, -1, -1):
            between = range(column + 1, row)
            root[row, column] = (differences[row, column] - sum(root[row, k] * root[k, column] for k in between)) / 2
    return np.tril(np.triu(root, -(bands - 1)))


def turns(rounds: int, separation: int) -> Iterator[tuple[int, ...]]:
    """Every set of rounds in which a client may take part."""
    for size in range(1, rounds + 1):
        for chosen in itertools.combinations(range(rounds), size):
            if all(later - earlier >= separation for earlier, later in itertools.pairwise(chosen)):
                yield chosen


@pytest.mark.parametrize("bands", [1, 2, 3, 8])
def test_the_coefficients_are_those_of_the_matrix_square_root(bands: int) -> None:
    np.testing.assert_allclose(coefficients(bands), inverse(bands, bands)[:, 0], atol=1e-14)


@pytest.mark.parametrize(("bands", "separation"), list(itertools.product([1, 2, 4, 8], [1, 2, 3, 8])))
def test_no_client_moves_all_rounds_together_by_more(bands: int, separation: int) -> None:
    rounds = 8
    matrix = np.linalg.inv(inverse(bands, rounds))
    moved = [
        float(np.linalg.norm(matrix[:, list(chosen)] @ np.array(signs)))
        for chosen in turns(rounds, separation)
        for signs in itertools.product([1, -1], repeat=len(chosen))
    ]
    assert max(moved) == pytest.approx(sensitivity(bands, rounds, separation))


@pytest.mark.parametrize(("bands", "separation"), [(1, 1), (2, 4), (5, 10), (30, 7)])
def test_the_error_is_that_of_dense_matrices(bands: int, separation: int) -> None:
    rounds = 30
    sums = np.tril(np.ones((rounds, rounds))) @ inverse(bands, rounds)
    dense = np.sqrt((sums**2).sum() / rounds) * sensitivity(bands, rounds, separation)
    assert error(bands, rounds, separation) == pytest.approx(dense)


def test_it_helps_where_clients_take_turns_and_not_where_all_take_part_in_every_round() -> None:
    assert best_bands(50, 1) == 1
    assert error(best_bands(50, 10), 50, 10) < error(1, 50, 10) / 2


def test_each_round_takes_back_what_earlier_rounds_added() -> None:
    """Rounds of released noise times C are the fresh noise: independent, of variance 1."""
    bands, rounds, size = 4, 6, 20_000
    state: dict[str, torch.Tensor] = {}
    released = []
    for _ in range(rounds):
        noise = CorrelatedNoise(coefficients(bands), state)
        released.append(noise((size,)).numpy())
        state = noise.state()
    assert state[KEYS].shape == (bands - 1, KEY_BYTES)
    fresh = np.linalg.inv(inverse(bands, rounds)) @ np.stack(released)
    np.testing.assert_allclose(np.cov(fresh), np.eye(rounds), atol=0.05)


def test_independent_noise_keeps_no_key() -> None:
    assert CorrelatedNoise(coefficients(1), {}).state() == {}


def test_turns_cost_what_their_rounds_cost_and_no_more() -> None:
    """With independent noise, k turns of one client are k Gaussian releases."""
    settings = Central(noise_multiplier=4.0, delta=1e-2)
    turns = settings.promise(Attendance(40, 4, "cyclic", rounds=200))  # 20 turns each
    assert turns.sensitivity == pytest.approx(np.sqrt(20))
    all_rounds = Central(noise_multiplier=4.0 * turns.sensitivity, delta=1e-2)
    everybody = all_rounds.promise(Attendance(10, 10, "uniform", rounds=20))
    released = dict.fromkeys(range(1, 201), 1)
    assert turns.epsilon(released) == pytest.approx(everybody.epsilon(dict.fromkeys(range(1, 21), 1)), rel=1e-3)


def test_a_run_ends_where_its_promise_ends(tmp_path: Path) -> None:
    """A promise for all rounds together is for the rounds that it was made for."""
    federation = {"clients": 6, "per_round": 2, "rounds": 4, "sampling": "cyclic"}
    privacy = {"kind": "central", "noise_multiplier": 1.0, "delta": 1e-2, "mechanism": "bisr", "bands": 2}
    finished = run(load_recipe(small_recipe(tmp_path, federation=federation, privacy=privacy)))
    figures = finished.summary["privacy"]
    assert figures["bands"] == 2
    assert figures["planned"] == figures["releases"] == 4
    assert figures["sensitivity"] == pytest.approx(sensitivity(2, 4, 3))
    assert "clients take turns over 4 rounds, which are accounted as one release" in statement(figures).text
    lines = [line for line in jsonl.records(finished.path / "wire.jsonl") if line["direction"] == "down"]
    asked = [{client for line in lines if line["round"] == n for client in line["clients"]} for n in (1, 2, 3, 4)]
    assert asked[0] | asked[1] | asked[2] == {str(n) for n in range(6)}
    assert asked[3] == asked[0]
    with pytest.raises(RecipeError, match="its promise of privacy is for 4 rounds together"):
        resume(finished.path, ["federation.rounds=6"])


def test_check_proposes_it_to_clients_that_take_turns() -> None:
    def said(clients: int, mechanism: str = "independent") -> Advice | None:
        privacy = Central(noise_multiplier=1.0, delta=1e-3, mechanism=mechanism)  # type: ignore[arg-type]
        federation = FederationSettings(per_round=4, rounds=50, sampling="cyclic")
        promise = privacy.promise(federation.attendance(clients))
        experiment = SimpleNamespace(promise=promise, data=SimpleNamespace(clients=range(clients)))
        facts: Any = SimpleNamespace(experiment=experiment, recipe=SimpleNamespace(federation=federation))
        return independent_noise(facts)

    found = said(40)
    assert found is not None
    assert "the noise in the model is 49% of that" in found.text
    assert said(4) is None
    assert said(40, "bisr") is None
