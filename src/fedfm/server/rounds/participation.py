"""Which client contributed to how many rounds, and why it did not to others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

MOST_REASON = 300
"""Characters of a reason that are kept."""


@dataclass(frozen=True)
class Participation:
    """What one client contributed.

    Attributes:
        rounds: rounds in which an update was accepted.
        failed: how often it sent no update.
        refused: how often its update was refused.
        late: how often the round had ended before its update arrived.
        reason: of the last of these times.
    """

    rounds: int = 0
    failed: int = 0
    refused: int = 0
    late: int = 0
    reason: str = ""


Participations = Mapping[str, Participation]
"""Client id → what it contributed; clients that were never asked are not in it."""


def after_round(before: Participations, accepted: Iterable[str], events: Iterable[Mapping[str, Any]]) -> Participations:
    """The contributions after another round.

    Args:
        before: those before it.
        accepted: clients whose update was accepted.
        events: of the round, as events.jsonl has them.
    """
    found = dict(before)
    for client in accepted:
        of = found.get(client, Participation())
        found[client] = replace(of, rounds=of.rounds + 1)
    for event in events:
        if (kind := event["kind"]) in ("failed", "refused", "late"):
            of = found.get(event["client"], Participation())
            times: dict[str, Any] = {
                kind: getattr(of, kind) + 1,
                "reason": " ".join(str(event["reason"]).split())[:MOST_REASON],
            }
            found[event["client"]] = replace(of, **times)
    return found


def summary_of(found: Participations, clients: Collection[str], *, all_by_name: bool) -> dict[str, Any]:
    """The contributions as ``summary.json`` has them.

    Args:
        found: the contributions.
        clients: of the run; updates of other clients do not count.
        all_by_name: whether to list every client; else only those that failed, or had updates refused.

    Returns:
        ``contributed``: clients with an accepted update. ``never_contributed``: ids of clients that were asked, and
        have none. ``by_client``: client id → ``rounds``, ``failed``, ``refused``, ``late``, ``reason``.
    """
    known = {client: found.get(client, Participation()) for client in sorted(clients)}
    troubled = {client for client, of in known.items() if of.failed or of.refused}
    never = [client for client, of in known.items() if not of.rounds and (client in troubled or of.late)]
    return {
        "contributed": sum(of.rounds > 0 for of in known.values()),
        "never_contributed": never,
        "by_client": {client: asdict(of) for client, of in known.items() if all_by_name or client in troubled},
    }
