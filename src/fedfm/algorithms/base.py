"""What an algorithm is: plain functions over `Params`, with the settings they use."""

from __future__ import annotations

from torch import Tensor

from fedfm.params import Params, add
from fedfm.settings import Settings

ServerState = dict[str, Params]
"""What the server remembers between rounds (momentum, second moments, …), by name; saved in every checkpoint."""


class Algorithm(Settings):
    """FedAvg's skeleton; an algorithm overrides the step in which it differs.

    A whole federation in a few lines, on a model of one number that client c wants to be c:

        >>> import torch
        >>> from fedfm.aggregation import Mean
        >>> from fedfm.algorithms import FedAvg
        >>> algorithm, rule = FedAvg(), Mean()
        >>> params = {"w": torch.zeros(1)}
        >>> state = algorithm.start(params)
        >>> for _ in range(20):
        ...     fold = rule.start()
        ...     for client in (1.0, 2.0, 6.0):
        ...         gradient = algorithm.gradient(params["w"] - client, params["w"], params["w"])
        ...         fold.add({"w": -0.5 * gradient}, weight=1)
        ...     params, state = algorithm.server_step(params, fold.result(), state)
        >>> round(params["w"].item(), 3)
        3.0
    """

    name: str = ""
    """How the federation learns."""

    def start(self, params: Params) -> ServerState:
        """The server's state before round 1, shaped after the tunable."""
        return {}

    def gradient(self, gradient: Tensor, parameter: Tensor, received: Tensor) -> Tensor:
        """What local training does to the gradient of one tensor before clipping and the optimiser's step.

        Elementwise, so that it serves one client ``[...]`` and K stacked clients ``[K, ...]`` alike.

        Args:
            gradient: ∇F_c at ``parameter``.
            parameter: the client's current value w.
            received: the value w_t that the server sent this round.
        """
        return gradient

    def server_step(self, params: Params, update: Params, state: ServerState) -> tuple[Params, ServerState]:
        """New tunable and server state from the aggregated update Δ; none of the arguments is changed.

        Args:
            params: the tunable w_t that this round's clients received, float32.
            update: the aggregate Δ of the clients' w_c − w_t, in their dtype, summed in float64.
            state: what `start` or the last step returned.
        """
        return add(params, update), state
