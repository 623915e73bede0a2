"""Evaluation at clients: each measures what it holds on the examples that it holds out, and sends means and counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedfm.clients.work import EVALUATE
from fedfm.params import Params
from fedfm.protocols import Ask
from fedfm.server.rounds.client_models import ClientModels
from fedfm.server.rounds.exchange import Exchange

AT_ONCE = 64
"""Clients whose own tunables are in memory at a time."""


@dataclass(frozen=True)
class ClientFigures:
    """What one client measured.

    Attributes:
        client: client id.
        examples: how many it holds out.
        scores: loss and metrics, means over these examples.
        predictions: examples or tokens that were predicted in them.
    """

    client: str
    examples: int
    scores: dict[str, float]
    predictions: int = 0


def measure_at_clients(
    exchange: Exchange, models: ClientModels, params: Params, clients: Sequence[str], metrics: Sequence[str]
) -> list[ClientFigures]:
    """Asks clients to evaluate; those that have nothing to measure, or fail, are absent.

    Args:
        exchange: of the round.
        models: what the clients hold.
        params: the tunable that the run delivers.
        clients: who is asked.
        metrics: names of the metrics to take from the answers.

    Raises:
        InterruptedRunError: the run was asked to stop.
    """
    found = []
    for asks in _asks(exchange.number, models, params, clients, crosses=not exchange.simulated):
        for update in exchange.ask(asks, quorum=False):
            facts = update.facts
            figures = {"loss": facts.loss, **{name: facts.extra.get(name) for name in metrics}}
            scores = {name: value for name, value in figures.items() if value is not None}
            found.append(ClientFigures(update.client, facts.examples, scores, facts.predictions))
    return found


def _asks(
    number: int, models: ClientModels, params: Params, clients: Sequence[str], *, crosses: bool
) -> Iterator[Mapping[str, Ask]]:
    """One message for all, or for all that an expert serves; or each client's own tunable.

    Args:
        number: of the round.
        models: what the clients hold.
        params: the tunable that the run delivers.
        clients: who is asked.
        crosses: whether their own tunables cross a wire: simulated clients would have theirs.
    """
    if models.protocol.own_tunable is None:
        delivered = Ask(number, dict(params), work=EVALUATE, expects={})
        experts = {
            name: Ask(number, dict(expert), work=EVALUATE, expects={})
            for name, expert in models.protocol.experts(models.state).items()
        }
        served = {client: models.protocol.expert_of(client, models.state) for client in clients}
        yield {client: delivered if name is None else experts[name] for client, name in served.items()}
        return
    for start in range(0, len(clients), AT_ONCE):
        yield {
            client: Ask(number, dict(models.of(client, params)), work=EVALUATE, expects={}, counted=crosses)
            for client in clients[start : start + AT_ONCE]
        }


def mean_over_clients(found: Sequence[ClientFigures]) -> dict[str, float]:
    """Mean of each figure over the clients that have it, weighted by their held-out examples.

    A figure that is a count over a client's examples, such as its accuracy, gives exactly the count over all examples.
    """
    means = {}
    for name in dict.fromkeys(name for client in found for name in client.scores):
        known = [(client.scores[name], client.examples) for client in found if name in client.scores]
        total = math.fsum(_total(value, examples) for value, examples in known)
        means[name] = total / sum(examples for _, examples in known)
    return means


def _total(mean: float, examples: int) -> float:
    """``mean · examples``; the integer that it is up to rounding, where it is one."""
    product = mean * examples
    nearest = round(product)
    return nearest if abs(product - nearest) <= abs(product) * 2**-52 else product
