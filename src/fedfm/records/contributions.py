"""The contributions of clients, as sentences for the terminal, the report and the card."""

from __future__ import annotations

from fedfm.records.jsonl import Record
from fedfm.records.reading import dig

SHOWN = 24
"""Clients that are listed one by one, those with the fewest rounds first."""


def warning(summary: Record | None) -> str | None:
    """A warning about clients that were asked and never contributed; None where all contributed."""
    never = dig(summary, "clients.never_contributed") or []
    if not never:
        return None
    shown = ", ".join(never[:SHOWN]) + (f" and {len(never) - SHOWN} more" if len(never) > SHOWN else "")
    contributed, total = dig(summary, "clients.contributed"), dig(summary, "clients.total")
    return f"{shown} never contributed: the result comes from {contributed} of {total} clients"


def lines(summary: Record | None) -> list[str]:
    """A line for each client that is listed: ``clinic: 0 of 10 rounds, 3 failures: reason``."""
    listed = dig(summary, "clients.by_client") or {}
    rounds = dig(summary, "rounds")
    ordered = sorted(listed.items(), key=lambda item: (item[1]["rounds"], item[0]))
    found = [f"{client}: {of['rounds']} of {rounds} rounds{_troubles(of)}" for client, of in ordered[:SHOWN]]
    return found + ([f"and {len(ordered) - SHOWN} more"] if len(ordered) > SHOWN else [])


def troubles(summary: Record | None) -> str:
    """The numbers of failures and refusals, as a text; empty where they are not known."""
    failed, refused = dig(summary, "clients.failed"), dig(summary, "clients.refused")
    if failed is None or refused is None:
        return ""
    return f"{_times(failed, 'failure')}, {_times(refused, 'update')} refused"


def _troubles(of: Record) -> str:
    counts = [
        _times(of["failed"], "failure") if of["failed"] else "",
        f"{_times(of['refused'], 'update')} refused" if of["refused"] else "",
        f"{of['late']} times late" if of["late"] else "",
    ]
    text = ", ".join(filter(None, counts))
    return f", {text}: {of['reason']}" if text else ""


def _times(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
