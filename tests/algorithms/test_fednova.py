"""FedNova against numpy on unequal steps, its limits, and its fixed point."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedfm.aggregation import Contribution, Mean
from fedfm.algorithms import Algorithm, ClientRound, FedAvg, FedNova
from fedfm.clients import LocalResult
from fedfm.params import Params
from fedfm.protocols.folding import RoundFold
from fedfm.protocols.io import ClientUpdate
from fedfm.spec import spec_of
from fedfm.updates import Done, UpdatePath
from fedfm.wire import TUNABLE

EXAMPLES, STEPS = (10, 30, 60), (5, 1, 12)


def played(
    algorithm: Algorithm,
    w: Params,
    deltas: list[Params],
    steps: tuple[int, ...] = STEPS,
    examples: tuple[int, ...] = EXAMPLES,
) -> Params:
    """The tunable after a round in which each client moves by its update, folded as in a run."""
    io: Any = SimpleNamespace(
        algorithm=algorithm,
        seed=0,
        rule=Mean(weights="examples"),
        spec=spec_of(w),
        clients=dict.fromkeys("abc", 1),
        up=UpdatePath(),
        require_updates=lambda updates: None,
    )
    fold = RoundFold(io, w, 1)
    for client, delta, held, taken in zip("abc", deltas, examples, steps, strict=False):
        sent = algorithm.client_finish(delta, ClientRound(w, {}, {}, 0.1), LocalResult(taken, taken, taken, 0.0)).update
        facts, contribution = Done(client=client, examples=held, steps=taken), Contribution(client, held, taken)
        fold.add(ClientUpdate(client, {TUNABLE: sent}, facts, contribution, dict.fromkeys(w, ())))
    return fold.server_step(w, algorithm.start(w))[0]


def draw(seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return {"a": torch.from_numpy(rng.normal(size=(3, 4))), "b": torch.from_numpy(rng.normal(size=5))}


def test_it_equals_the_papers_formula_with_unequal_steps_and_weights() -> None:
    w, deltas = draw(0), [draw(seed) for seed in (1, 2, 3)]
    found = played(FedNova(server_lr=0.7), w, deltas)
    p = np.array(EXAMPLES) / sum(EXAMPLES)
    tau_eff = (p * STEPS).sum()
    for name in w:
        direction = sum(p[i] * deltas[i][name].numpy() / STEPS[i] for i in range(3))
        np.testing.assert_allclose(found[name], w[name].numpy() + 0.7 * tau_eff * direction, rtol=1e-12)


def test_with_equal_steps_it_is_fedavg() -> None:
    w, deltas = draw(0), [draw(seed) for seed in (1, 2, 3)]
    torch.testing.assert_close(played(FedNova(), w, deltas, (4, 4, 4)), played(FedAvg(), w, deltas, (4, 4, 4)))


def test_a_client_without_a_step_sends_zeros() -> None:
    zero = {"w": torch.zeros(2)}
    done = FedNova().client_finish(zero, ClientRound(zero, {}, {}, 0.1), LocalResult(0, 0, 0, 0.0))
    assert done.update["w"].tolist() == [0.0, 0.0]


def test_unequal_steps_do_not_move_the_fixed_point_as_they_do_with_fedavg() -> None:
    # Two clients of equal weight want 0 and 1; the first takes one small step a round, the second 20.
    ends: list[float] = []
    for algorithm in (FedNova(), FedAvg()):
        w: Params = {"w": torch.zeros(1, dtype=torch.float64)}
        for _ in range(150):
            deltas = []
            for centre, steps in ((0.0, 1), (1.0, 20)):
                x = w["w"].clone()
                for _ in range(steps):
                    x = x - 0.005 * (x - centre)
                deltas.append({"w": x - w["w"]})
            w = played(algorithm, w, deltas, (1, 20), (1, 1))
        ends.append(w["w"].item())
    assert ends[0] == pytest.approx(0.5, abs=0.03)
    assert ends[1] > 0.9
