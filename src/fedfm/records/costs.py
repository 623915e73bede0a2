"""The ledger of costs, ``costs.jsonl``: a line for each client and round; and its totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfm.records import jsonl, shapes

JOULES_A_WATT_HOUR = 3600


@dataclass
class RoundCosts:
    """One round; times as if its clients worked side by side, each on a machine of its own: those of the slowest.

    Attributes:
        compute_seconds: CPU seconds of the client that computed longest.
        link_seconds: seconds of the client whose messages took longest.
        down: bytes to clients.
        up: bytes from clients.
    """

    compute_seconds: float = 0.0
    link_seconds: float = 0.0
    down: int = 0
    up: int = 0


@dataclass
class ClientCosts:
    """One client over all rounds; what was not measured or not estimated is None.

    Attributes:
        rounds: in which it was asked for anything.
        down: bytes to it, first downloads included.
        up: bytes from it.
        samples: examples that its steps processed.
        flops: operations of its training, estimated.
        link_seconds: time of its messages, estimated.
        cpu_seconds: measured.
        memory_bytes: estimated peak.
        peak_bytes: of the process that trained it, measured.
    """

    rounds: int = 0
    down: int = 0
    up: int = 0
    samples: int = 0
    flops: float | None = None
    link_seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    peak_bytes: int | None = None


@dataclass
class CostTotals:
    """All lines of a ledger.

    Attributes:
        rounds: round → its costs.
        clients: client → its costs.
    """

    rounds: dict[int, RoundCosts] = field(default_factory=dict)
    clients: dict[str, ClientCosts] = field(default_factory=dict)

    def total(self, name: str) -> float | None:
        """The sum of a figure over all clients; None where no client has it."""
        return _sum(getattr(client, name) for client in self.clients.values())

    def largest(self, name: str) -> float | None:
        """The largest of a figure over all clients; None where no client has it."""
        return max(
            (value for client in self.clients.values() if (value := getattr(client, name)) is not None), default=None
        )

    def summary(self, watts: float) -> dict[str, Any]:
        """``costs`` of summary.json.

        Args:
            watts: of a core that trains.
        """
        cpu = self.total("cpu_seconds")
        return {
            "flops": self.total("flops"),
            "cpu_seconds": cpu,
            "link_seconds": self.total("link_seconds"),
            "round_seconds": {
                "compute": None if cpu is None else sum(each.compute_seconds for each in self.rounds.values()),
                "communication": None
                if self.total("link_seconds") is None
                else sum(each.link_seconds for each in self.rounds.values()),
            },
            "memory_bytes": self.largest("memory_bytes"),
            "peak_bytes": self.largest("peak_bytes"),
            "energy_joules": None if cpu is None else watts * cpu,
            "watts": watts,
        }


def cost_totals(path: Path) -> CostTotals:
    """The totals of a ledger; empty where there is no ledger.

    Raises:
        DataError: a line of the ledger is damaged.
    """
    return totals_of(jsonl.records(path, shapes.COSTS))


def totals_of(lines: Iterable[Mapping[str, Any]]) -> CostTotals:
    """The totals of lines of a ledger."""
    found = CostTotals()
    for line in lines:
        of_round = found.rounds.setdefault(line["round"], RoundCosts())
        of_client = found.clients.setdefault(line["client"], ClientCosts())
        down = line["down"] + line.get("download", 0)
        of_round.down += down
        of_round.up += line["up"]
        of_round.compute_seconds = max(of_round.compute_seconds, line["cpu_seconds"] or 0.0)
        of_round.link_seconds = max(of_round.link_seconds, line["link_seconds"] or 0.0)
        of_client.rounds += 1
        of_client.down += down
        of_client.up += line["up"]
        of_client.samples += line["samples"]
        for name in ("flops", "link_seconds", "cpu_seconds"):
            setattr(of_client, name, _sum([getattr(of_client, name), line[name]]))
        for name in ("memory_bytes", "peak_bytes"):
            known = [value for value in (getattr(of_client, name), line[name]) if value is not None]
            setattr(of_client, name, max(known, default=None))
    return found


def cost_columns(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Costs of a run as columns of a table of a benchmark, each with its unit in its name.

    Args:
        summary: the content of summary.json; of a run without ``costs``, everything but bytes is None.
    """
    costs: Mapping[str, Any] = summary.get("costs") or {}
    traffic: Mapping[str, Any] = summary.get("bytes") or {}

    def scaled(name: str, unit: float) -> float | None:
        value = costs.get(name)
        return None if value is None else value / unit

    return {
        "MB down": traffic.get("down", 0) / 1e6,
        "MB up": traffic.get("up", 0) / 1e6,
        "TFLOP": scaled("flops", 1e12),
        "CPU s": scaled("cpu_seconds", 1),
        "link s": scaled("link_seconds", 1),
        "client MB": scaled("memory_bytes", 1e6),
        "peak MB": scaled("peak_bytes", 1e6),
        "Wh (estimate)": scaled("energy_joules", JOULES_A_WATT_HOUR),
    }


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
