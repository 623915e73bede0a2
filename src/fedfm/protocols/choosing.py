"""Asking each client of a round to train the part of the tunable that the recipe's `select` chooses for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from fedfm.protocols.io import IO, Ask
from fedfm.views import CHOICE, choice_of
from fedfm.views.selection import PROBE, Measured, Situation

KNOWN = "selection"
"""Key of a protocol's facts: client id → what it measured, for as long as that can be used again."""


def asks_for(
    ask: Ask, cohort: Mapping[str, int], facts: Mapping[str, Any], io: IO
) -> tuple[dict[str, Ask], dict[str, Any]]:
    """What each client is asked, and the protocol's facts with what clients measured.

    Where the selection needs measurements, clients that have none, or old ones, are asked for them first. A client that
    does not give them is not asked to train.

    Args:
        ask: what all clients would be asked.
        cohort: clients of the round.
        facts: of the protocol's state.
        io: of the round.

    Raises:
        InterruptedRunError: the run was asked to stop.
        TooFewClientsError: fewer measurements than the quorum.
    """
    selection, others = io.selection, {key: value for key, value in facts.items() if key != KNOWN}
    if not (selection.chooses and cohort):
        return dict.fromkeys(cohort, ask), dict(facts)
    known = {client: Measured(**figures) for client, figures in facts.get(KNOWN, {}).items()}
    if selection.works:
        known |= _measured(ask, [c for c in cohort if c not in known or _stale(known[c], ask, io)], io)
        clients = {client: known[client] for client in cohort if client in known and not _stale(known[client], ask, io)}
    else:
        clients = {client: Measured(0, io.clients[client]) for client in cohort}
    selected = selection.choose(Situation(io.layers, clients, ask.params, io.seed, ask.round))
    io.measure("selection", selected.figures)
    alike = {
        names: replace(ask, groups={**ask.groups, CHOICE: choice_of(names, io.spec)})
        for names in map(frozenset, selected.held.values())
    }
    later = {
        client: asdict(figures)
        for client, figures in sorted(known.items())
        if not selection.is_stale(figures.round, ask.round + 1)
    }
    asks = {client: alike[frozenset(names)] for client, names in selected.held.items()}
    return asks, {**others, **({KNOWN: later} if later else {})}


def _stale(figures: Measured, ask: Ask, io: IO) -> bool:
    return figures.round != ask.round and io.selection.is_stale(figures.round, ask.round)


def _measured(ask: Ask, clients: list[str], io: IO) -> dict[str, Measured]:
    """What clients measure now."""
    if not clients:
        return {}
    probe = replace(ask, extras={}, work=PROBE, expects=io.selection.returns(io.layers))
    return {
        answer.client: Measured(
            ask.round,
            answer.facts.examples,
            {name: tensor.tolist() for name, tensor in answer.groups[PROBE].items()},
        )
        for answer in io.ask(dict.fromkeys(clients, probe))
    }
