"""A round's fold and the server's step, where clients hold a part of the tunable."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedfm.aggregation import Contribution, Mean
from fedfm.algorithms import ALGORITHMS, Algorithm
from fedfm.capabilities import BARRIER
from fedfm.protocols import Buffered
from fedfm.protocols.folding import RoundFold
from fedfm.protocols.io import ClientUpdate
from fedfm.spec import spec_of
from fedfm.updates import Done, UpdatePath
from fedfm.views import Slices, narrow
from fedfm.wire import TUNABLE

PARAMS = {"w": torch.arange(1.0, 5.0), "personal": torch.ones(2)}
WHOLE: Slices = {"w": ()}
LEADING: Slices = {"w": (slice(2),)}
LAST: Slices = {"w": (slice(2, 4),)}


def folded(io: Any, parts: list[Slices]) -> RoundFold:
    """Updates of one that cover these parts."""
    fold = RoundFold(io, PARAMS, 1)
    for number, slices in enumerate(parts):
        part = narrow({name: torch.ones_like(tensor) for name, tensor in PARAMS.items()}, slices)
        groups = dict.fromkeys((TUNABLE, *io.algorithm.returned), part)
        facts = Done(client=str(number), examples=1, steps=1)
        fold.add(ClientUpdate(str(number), groups, facts, Contribution(str(number), 1, 1), slices))
    return fold


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_moves_where_no_client_of_the_round_holds_a_coordinate(name: str) -> None:
    algorithm = ALGORITHMS[name]()
    io = SimpleNamespace(
        algorithm=algorithm,
        rule=Mean(),
        seed=0,
        spec=spec_of(PARAMS),
        clients=dict.fromkeys("abcd", 1),
        up=UpdatePath(),
        require_updates=lambda updates: None,
    )
    params, state = folded(io, [WHOLE, LEADING]).server_step(PARAMS, algorithm.start(PARAMS))
    assert not torch.equal(params["w"], PARAMS["w"])
    after, later = folded(io, [LEADING, LEADING]).server_step(params, state)
    assert (after["w"][:2] != params["w"][:2]).all()
    assert torch.equal(after["w"][2:], params["w"][2:])  # FedDyn drifted by −h/α, momentum went on
    assert torch.equal(after["personal"], PARAMS["personal"])
    for group in state:
        assert torch.equal(later[group]["w"][2:], state[group]["w"][2:])
    together, _ = folded(io, [LEADING, LAST]).server_step(params, state)
    assert (together["w"] != params["w"]).all()


def test_what_is_sent_beside_the_tunable_needs_a_barrier() -> None:
    class Sends(Algorithm):
        name: str = "sends"
        sent = ("extra",)

    assert BARRIER in Sends().capabilities().needs
    assert BARRIER in Buffered().capabilities().takes
