"""A federation on quadratics that is played with an algorithm's own functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedfm.aggregation import Contribution, Mean
from fedfm.algorithms import Aggregate, Algorithm, At, ClientRound, ServerState
from fedfm.clients import LocalResult
from fedfm.clients.rules import Groups
from fedfm.params import Params
from fedfm.spec import spec_of


@dataclass
class Quadratics:
    """Client c minimises Σ_j curvatures[c, j]/2 · (w_j − centres[c, j])², by K plain gradient steps a round.

    Attributes:
        algorithm: what is played.
        curvatures: ``[clients, values]``.
        centres: ``[clients, values]``.
        lr: η.
        steps: K.
    """

    algorithm: Algorithm
    curvatures: Tensor
    centres: Tensor
    lr: float = 0.1
    steps: int = 1
    params: Params = field(init=False)
    server: ServerState = field(init=False)
    own: dict[int, Groups] = field(init=False)

    def __post_init__(self) -> None:
        self.params = {"w": torch.zeros(self.centres.shape[1], dtype=torch.float64)}
        self.server, self.own = self.algorithm.start(self.params), {}

    @property
    def optimum(self) -> Tensor:
        """Where the sum of the clients' losses is least."""
        return (self.curvatures * self.centres).sum(0) / self.curvatures.sum(0)

    def round(self, clients: Sequence[int]) -> None:
        """One round of some clients, with equal weights."""
        spec = spec_of(self.params)
        fold = Mean(weights="uniform").start(spec, self.params)
        extras = {group: Mean(weights="uniform").start(spec, self.params) for group in self.algorithm.returned}
        figures: dict[str, float] = {}
        for client in clients:
            at = ClientRound(
                self.params,
                self.algorithm.sends(self.server),
                self.own.get(client) or self.algorithm.client_start(self.params),
                self.lr,
            )
            w = self.params["w"].clone()
            for step in range(self.steps):
                here = At(
                    self.params["w"],
                    {group: params["w"] for group, params in at.sent.items()},
                    {group: params["w"] for group, params in at.own.items()},
                    step,
                    self.lr,
                )
                gradient = self.curvatures[client] * (w - self.centres[client])
                w = w - self.lr * self.algorithm.gradient(gradient, w, here)
            result = LocalResult(self.steps, self.steps, self.steps, 0.0)
            done = self.algorithm.client_finish({"w": w - self.params["w"]}, at, result)
            self.own[client] = done.own
            contribution = Contribution(str(client), 1, self.steps)
            fold.add(done.update, contribution, {"w": ()})
            for name, figure in self.algorithm.measure(done.update, contribution).items():
                figures[name] = figures.get(name, 0.0) + figure / len(clients)
            for group, other in extras.items():
                other.add(done.extras[group], contribution, {"w": ()})
        aggregate = Aggregate(
            fold.result(),
            {group: other.result() for group, other in extras.items()},
            share=len(clients) / len(self.centres),
            clients=len(clients),
            steps=self.steps,
            figures=figures,
        )
        self.params, self.server = self.algorithm.server_step(self.params, aggregate, self.server)


UNLIKE = torch.tensor([[1.0, 4.0], [3.0, 0.5], [0.2, 1.0]], dtype=torch.float64)
"""Curvatures of three clients, under which FedAvg with several local steps ends away from the optimum."""

CENTRES = torch.tensor([[1.0, 0.0], [3.0, -2.0], [5.0, 5.0]], dtype=torch.float64)
