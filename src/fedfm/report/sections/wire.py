"""What crossed the network: a summary of the wire ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.ledger import Direction, TensorGroup
from fedfm.records.reading import RunFiles, dig
from fedfm.report import charts, svg
from fedfm.report.sections.parts import Chart, Fact

SHOWN = 200
"""Rows of the table: the tensors that crossed first."""


@dataclass(frozen=True)
class WireRow:
    """Tensors that differ only in the numbers of their layers, and their bytes in each direction.

    Attributes:
        name: their common name.
        tensors: how many there are.
        stands_for: names of the tensors that an encoded tensor stands for.
        shape: of one of them.
        dtype: e.g. ``float32``.
        down: bytes from the server to clients.
        up: bytes from clients to the server or to other clients.
    """

    name: str
    tensors: int
    stands_for: Sequence[str]
    shape: str
    dtype: str
    down: str
    up: str


@dataclass(frozen=True)
class WireSection:
    """What crossed; ``peer``: whether clients sent to each other."""

    facts: list[Fact]
    charts: list[Chart]
    rows: list[WireRow]
    left_out: int
    peer: bool


def wire(run: RunFiles) -> WireSection | None:
    """A summary of the ledger; None for a run without a ledger."""
    by_round = run.traffic["by_round"]
    if not by_round:
        return None
    rounds = sorted(by_round)
    down, up = [by_round[number]["down"] for number in rounds], [by_round[number]["up"] for number in rounds]
    facts = [
        Fact("Down", units.size(sum(down)), f"{units.size(sum(down) / len(rounds))} a round"),
        Fact("Up", units.size(sum(up)), f"{units.size(sum(up) / len(rounds))} a round"),
    ]
    if peer := run.traffic["peer"]:
        facts.append(Fact("Between clients", units.size(peer), "sent from client to client, part of up"))
    first = dig(run.summary, "bytes.first_download")
    if first:
        facts.append(Fact("Before round 1", units.size(first), "once to each client, not counted above"))
    title = f"Bytes of each round: {units.size(sum(down))} down and {units.size(sum(up))} up in all"
    image = svg.inline("traffic", charts.traffic(rounds, down, up), title=title, width=8.2, height=2.4)
    rows = _rows(run.tensors)
    return WireSection(
        facts, [Chart("Bytes of each round", image)], rows[:SHOWN], max(0, len(rows) - SHOWN), bool(peer)
    )


def _rows(groups: Sequence[TensorGroup]) -> list[WireRow]:
    """One row for the groups of all directions that are alike."""
    found: dict[tuple[str, str, tuple[int, ...]], list[TensorGroup]] = {}
    for group in groups:
        found.setdefault((group.name, group.dtype, group.shape), []).append(group)
    rows = []
    for (name, dtype, shape), alike in found.items():
        tensors = max(group.tensors for group in alike)
        stands_for = list(dict.fromkeys(other for group in alike for other in group.stands_for))
        down, up = _sent(alike, {"down"}), _sent(alike, {"up", "peer"})
        rows.append(WireRow(name, tensors, stands_for, " × ".join(map(str, shape)) or "scalar", dtype, down, up))
    return rows


def _sent(groups: Sequence[TensorGroup], directions: set[Direction]) -> str:
    """The bytes of groups in some directions; a dash where nothing was sent."""
    sent = [group.sent for group in groups if group.direction in directions]
    return units.size(sum(sent)) if sent else units.DASH
