"""Calibrated retraining: updates of an earlier run give the lengths of the steps, a few local steps the directions.

Liu, Ma, Yang, Wang, Liu, Federated Unlearning, arXiv:2012.13891 (FedEraser). The earlier run had a client that is left
out here, and recorded ‖U_k‖, the norm of each tensor of client k's update, in each round. Here each other client of
every Δt-th of its rounds trains from the model so far, with fewer local steps where the recipe says so, and

    Δ_k = ‖U_k‖·Û_k / ‖Û_k‖      for each tensor,

with Û_k its new update, is what rule and server step get. So the model moves as far as it did, in directions that the
client that is left out has not touched. The lengths still depend on it a little: in the earlier run, the other clients
started from models with its updates. The result is therefore near to that of retraining, and not equal to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.algorithms import Algorithm
from fedfm.errors import RecipeError
from fedfm.params import Params
from fedfm.protocols.base import Protocol, State
from fedfm.protocols.folding import RoundFold
from fedfm.protocols.io import IO, Ask, ClientUpdate
from fedfm.wire import TUNABLE

SPLIT = "update"
"""Split of norms in metrics.jsonl."""

Norms = Mapping[str, Mapping[str, float]]
"""Client id → tensor → norm of its update in a round."""


def record_norms(update: ClientUpdate, io: IO) -> None:
    """Adds the norm of each tensor of an update to the round's metrics."""
    norms = {name: {"norm": _norm(tensor)} for name, tensor in update.groups[TUNABLE].items()}
    io.measure(SPLIT, {"client": update.client, "layers": norms})


class Calibrated(Protocol):
    """Steps as long as those of an earlier run, in new directions (FedEraser)."""

    kind: Literal["calibrated"] = "calibrated"
    """Steps as long as those of an earlier run, in new directions: `fedfm forget --how calibrated` (FedEraser)."""
    of: Annotated[str, Field(min_length=1)]
    """Folder of the earlier run, which had `protocol.norms`."""
    every: Annotated[int, Field(ge=1)] = 2
    """Δt: of the earlier run's rounds, each so many-th is played, from the first on."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_BACKBONE: "the server adds up updates of one tunable",
        capabilities.INDIVIDUAL_UPDATES: "each update gets the length that the client's had",
        capabilities.LASTING_COORDINATES: "lengths are those of an earlier run in the same coordinates",
        capabilities.TUNABLE_UPDATES: "lengths are those of updates of the tunable",
        capabilities.SIMULATED_CLIENTS: "the earlier run's clients must train again",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.UPDATES_AS_SENT: "it scales updates to the lengths of an earlier run",
        capabilities.FREE_NORMS: "it sets the norms of updates itself",
    }

    def start(self, params: Params, algorithm: Algorithm) -> State:
        """The state before round 1, with the norms that the rounds need.

        Raises:
            RecipeError: the earlier run has none, or its metrics are damaged.
        """
        rounds = list(norms_of(Path(self.of)).items())[:: self.every]
        return replace(super().start(params, algorithm), facts={"left": [[number, norms] for number, norms in rounds]})

    def step(self, state: State, io: IO) -> State:
        """The next of these rounds; a client whose update had no norm then is not asked.

        Raises:
            RecipeError: there is none.
        """
        number, left = state.round + 1, state.facts["left"]
        if not left:
            raise RecipeError(f"{self.of} has norms of {state.round} rounds only", where="federation.rounds")
        (earlier, norms), *later = left
        cohort = {client: copies for client, copies in io.cohort(earlier).items() if client in norms}
        ask = Ask(number, state.params, io.algorithm.sends(state.server), learning_rate=io.learning_rate(number))
        fold = RoundFold(io, state.params, number)
        for update in io.ask(dict.fromkeys(cohort, ask), copies=cohort):
            scaled = as_long(update.groups[TUNABLE], norms[update.client])
            fold.add(replace(update, groups={**update.groups, TUNABLE: scaled}))
        params, server = state.params, state.server
        if fold:
            params, server = fold.server_step(params, server)
        return State(number, params, server, {"left": later})


def as_long(update: Mapping[str, Tensor], norms: Mapping[str, float]) -> Params:
    """An update whose tensors have the given norms; one that is zero, or has no norm, stays zero."""
    return {
        name: tensor * (norms.get(name, 0.0) / norm) if (norm := _norm(tensor)) else torch.zeros_like(tensor)
        for name, tensor in update.items()
    }


def norms_of(run: Path) -> dict[int, Norms]:
    """Round → the norms that a run recorded in it, in order.

    Args:
        run: its folder.

    Raises:
        RecipeError: its metrics cannot be read, are damaged, or have no norms.
    """
    file = run / "metrics.jsonl"
    found: dict[int, dict[str, dict[str, float]]] = {}
    try:
        for text in file.read_text(encoding="utf-8").splitlines():
            line: dict[str, Any] = json.loads(text)
            if line["split"] == SPLIT:
                norms = {name: float(layer["norm"]) for name, layer in line["layers"].items()}
                found.setdefault(int(line["round"]), {})[str(line["client"])] = norms
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecipeError(f"cannot read {file}: {reason}", where="protocol.of") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecipeError(f"{file} is damaged, or not the metrics of a run", where="protocol.of") from error
    if not found:
        raise RecipeError(
            f"{file} has no norms of updates: the run did not record them (protocol.norms=true)", where="protocol.of"
        )
    return dict(sorted(found.items()))


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))
