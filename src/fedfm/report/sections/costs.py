"""What the run cost its clients: computation, communication, memory, energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.costs import JOULES_A_WATT_HOUR, ClientCosts, CostTotals
from fedfm.records.reading import RunFiles, dig
from fedfm.report import charts, svg
from fedfm.report.sections.parts import Chart, Fact, Table

LISTED = 200
"""Rows of the table: the clients that computed most."""


@dataclass(frozen=True)
class CostsSection:
    """Figures, a chart where there is time to draw, and the clients."""

    facts: list[Fact]
    charts: list[Chart]
    clients: Table
    left_out: int
    linked: bool


def costs(run: RunFiles) -> CostsSection | None:
    """The costs; None for a run without a ledger of costs."""
    found = run.costs
    if not found.clients:
        return None
    order = sorted(found.clients.items(), key=lambda item: (-(item[1].cpu_seconds or item[1].flops or 0.0), item[0]))
    return CostsSection(
        _facts(found, dig(run.summary, "costs.watts")),
        _charts(found),
        Table(
            ["client", "rounds", "down", "up", "examples", "operations", "CPU time", "link time", "memory (estimate)"],
            [_row(client, of) for client, of in order[:LISTED]],
        ),
        max(0, len(order) - LISTED),
        found.total("link_seconds") is not None,
    )


def _facts(found: CostTotals, watts: float | None) -> list[Fact]:
    facts = []
    if (flops := found.total("flops")) is not None:
        facts.append(Fact("Operations", operations(flops), "of local training, all clients; an estimate"))
    if (cpu := found.total("cpu_seconds")) is not None:
        facts.append(Fact("CPU time", units.duration(cpu), "of clients, all cores; measured here"))
        if watts is not None:
            energy = f"{watts * cpu / JOULES_A_WATT_HOUR:.3g} Wh"
            facts.append(Fact("Energy", energy, f"an estimate: {watts:g} W times CPU time (runtime.watts)"))
    if (link := found.total("link_seconds")) is not None:
        facts.append(Fact("Link time", units.duration(link), "of messages, all clients; an estimate (runtime.link)"))
    if (memory := found.largest("memory_bytes")) is not None:
        facts.append(Fact("Memory of a client", units.size(memory), "model, training and activations; an estimate"))
    if (peak := found.largest("peak_bytes")) is not None:
        facts.append(Fact("Peak of a process", units.size(peak), "measured, with libraries and what is shared"))
    return facts


def _charts(found: CostTotals) -> list[Chart]:
    rounds = sorted(number for number in found.rounds if number)
    computing = [found.rounds[number].compute_seconds for number in rounds]
    sending = [found.rounds[number].link_seconds for number in rounds]
    if not any([*computing, *sending]):
        return []
    name = "Time of each round, as long as its slowest client takes"
    words = [f"{units.duration(sum(computing))} of computation", f"{units.duration(sum(sending))} of communication"]
    title = f"{name}: {' and '.join(words)} in all"
    draw = charts.stacked_seconds(rounds, computing, sending)
    return [Chart(name, svg.inline("costs", draw, title=title, width=8.2, height=2.4))]


def _row(client: str, of: ClientCosts) -> list[str]:
    return [
        client,
        units.number(of.rounds),
        units.size(of.down),
        units.size(of.up),
        units.number(of.samples),
        _or_dash(of.flops, operations),
        _or_dash(of.cpu_seconds, units.duration),
        _or_dash(of.link_seconds, units.duration),
        _or_dash(of.memory_bytes, units.size),
    ]


def operations(flops: float) -> str:
    """Floating-point operations: ``1.2 TFLOP``."""
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"):
        if flops < 999.5:
            return f"{flops:.3g} {unit}"
        flops /= 1000
    return f"{flops:.3g} EFLOP"


def _or_dash(value: float | None, form: Callable[[float], str]) -> str:
    return units.DASH if value is None else form(value)
