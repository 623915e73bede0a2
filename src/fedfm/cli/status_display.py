"""The status of a run, for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedfm.records import units
from fedfm.records.jsonl import Record

SHOWN = 24
"""Clients in the table, those with the most failures first."""

_MEASURED_ON = {"test": "on the test set", "clients": "as the mean over clients"}


def render_status(status: Record) -> RenderableType:
    """A status for the terminal."""
    state = status["state"] + (f" (process {status['process']})" if status["process"] else "")
    metric = units.metric_name(status["metric"])
    lines: list[RenderableType] = [
        Text(f"{status['name']}: {state}, {status['round']} of {status['rounds']} rounds"),
        Text(f"{metric} {units.metric(status['metric'], status['value'])} {_MEASURED_ON[status['measured_on']]}"),
        Text(f"{units.size(status['bytes']['down'])} down, {units.size(status['bytes']['up'])} up"),
    ]
    if status["clients"]:
        table = Table("client", "examples", "last update", "failed", "refused", "why", box=None, pad_edge=False)
        ordered = sorted(status["clients"].items(), key=lambda item: (-item[1]["failed"] - item[1]["refused"], item[0]))
        for client, found in ordered[:SHOWN]:
            last = f"round {found['round']}" if found["round"] else "none"
            numbers = (str(found[key]) for key in ("failed", "refused"))
            table.add_row(Text(client), units.number(found["examples"]), last, *numbers, Text(found["reason"]))
        lines += [Text(), table]
        if len(ordered) > SHOWN:
            lines.append(Text(f"and {len(ordered) - SHOWN} more"))
    return Group(*lines)
