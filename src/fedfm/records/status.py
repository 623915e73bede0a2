"""The status of a run, read from its folder while the run goes on or afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedfm.data.settings import SITES
from fedfm.printable import records
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles, dig, read_run


def run_status(path: Path | str) -> Record:
    """Reads the status of a run.

    Returns:
        ``name``, ``state`` (``running``, ``completed``, ``interrupted``, ``failed``, or ``stopped``: its process was
        killed), ``process`` (id; None where no process runs), ``round``, ``rounds``, ``metric`` and its latest
        ``value``, ``measured_on`` (``test``: the test set, ``clients``: the mean over clients), ``bytes`` (``down``,
        ``up``), ``clients``: id → ``examples``, ``round`` of its last update (0: no update yet), ``failed``,
        ``refused``, ``reason`` (of the last failure or refusal). Of a simulation only clients with a failure or a
        refusal are listed.

    Raises:
        RecipeError: the folder is not that of a run.
        DataError: a file in it is damaged.
    """
    folder = RunFolder.open(path)
    files, process = read_run(folder), folder.process()
    state = "running" if process is not None else str(dig(files.summary, "status") or "stopped")
    scored = files.scored
    return {
        "name": files.name,
        "state": state,
        "process": process,
        "round": max((row["round"] for row in files.metrics), default=0),
        "rounds": dig(files.recipe, "federation.rounds"),
        "metric": files.headline,
        "value": scored[-1].get(files.headline) if scored else None,
        "measured_on": "clients" if files.by_clients else "test",
        "bytes": {"down": files.traffic["down"], "up": files.traffic["up"]},
        "clients": _clients(folder, files),
    }


def _clients(folder: RunFolder, files: RunFiles) -> dict[str, dict[str, Any]]:
    fresh = {"round": 0, "failed": 0, "refused": 0, "reason": ""}
    found = {str(row["id"]): {"examples": row["examples"], **fresh} for row in files.clients}
    for message in jsonl.records(folder.wire, shapes.MESSAGE):
        if message["direction"] != "down":
            for client in records(message["clients"][:1]):
                found.setdefault(client, {"examples": 0, **fresh})["round"] = message["round"]
    for event in files.events:
        if event["kind"] in ("failed", "refused") and event["client"] is not None:
            of = found.setdefault(event["client"], {"examples": 0, **fresh})
            of[event["kind"]] += 1
            of["reason"] = event["reason"]
    if dig(files.recipe, "data.train") == SITES:
        return found
    return {client: values for client, values in found.items() if values["failed"] or values["refused"]}
