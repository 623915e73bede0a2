"""The outcome: the headline metric, what it is compared with, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm.privacy.statement import statement
from fedfm.records import contributions, units
from fedfm.records.jsonl import Record
from fedfm.records.names import BASELINES
from fedfm.records.reading import RunFiles, dig, metric_keys
from fedfm.report.sections.parts import Fact, Table


@dataclass(frozen=True)
class Level:
    """A bar of the headline metric: of this run, of its start or of a baseline; ``width`` in percent."""

    name: str
    value: str
    width: float
    role: str


@dataclass(frozen=True)
class OutcomeSection:
    """The outcome.

    Attributes:
        heading: the headline metric, and on what it was measured.
        metric: its name.
        value: after the last round.
        before: before round 1.
        change: between the two.
        best: the best round, where it is another one.
        levels: bars of the headline metric.
        facts: costs.
        others: the other metrics.
        warning: what a reader must know first.
        contributions: a line for each client that is listed.
    """

    heading: str
    metric: str
    value: str
    before: str
    change: str
    best: str
    levels: list[Level]
    facts: list[Fact]
    others: Table
    warning: str | None
    contributions: list[str]


def outcome(run: RunFiles) -> OutcomeSection:
    """Headline metric, baselines and costs; before there is a summary, from the latest metrics."""
    metric, tests = run.headline, run.scored
    final: Record = dig(run.summary, "final") or (tests[-1] if tests else {})
    initial: Record = dig(run.summary, "initial") or (tests[0] if tests else {})
    keys = [metric, *(key for key in metric_keys([final]) if key != metric)]
    rows = [_row(name, initial.get(name), final.get(name)) for name in keys]
    name, value, before, change = rows[0]
    return OutcomeSection(
        heading=_heading(run),
        metric=name,
        value=value,
        before=before,
        change=change,
        best=_best(metric, run.summary, final),
        levels=_levels(metric, initial, final, baselines(run)),
        facts=[
            fact
            for fact in (
                _rounds(run),
                _protocol(run),
                _clients(run),
                _parameters(run),
                _bytes(run),
                _time(run),
                _privacy(run),
            )
            if fact
        ],
        others=Table(["", "final", "before round 1", "change"], rows[1:]),
        warning=contributions.warning(run.summary),
        contributions=contributions.lines(run.summary),
    )


def baselines(run: RunFiles) -> list[tuple[str, float]]:
    """Name and value of each baseline; for `local`, the mean over the clients that were trained alone."""
    found: Record = dig(run.summary, "baselines") or {}
    values = {name: value["mean"] if isinstance(value, dict) else value for name, value in found.items()}
    return [(BASELINES.get(name, name).capitalize(), value) for name, value in values.items() if value is not None]


def _heading(run: RunFiles) -> str:
    """The headline metric, and on what it was measured."""
    name = units.metric_name(run.headline)
    return f"{name[:1].upper()}{name[1:]}, mean over clients" if run.by_clients else f"Test {name}"


def _row(name: str, before: float | None, after: float | None) -> tuple[str, str, str, str]:
    change = units.metric_change(name, before, after)
    return units.metric_name(name), units.metric(name, after), units.metric(name, before), change


def _best(metric: str, summary: Record | None, final: Record) -> str:
    """The best round, where it is not the last one and its figure differs from the final one."""
    best = dig(summary, "best")
    if not best or best["round"] == dig(summary, "rounds") or best["metrics"].get(metric) == final.get(metric):
        return ""
    return f"{units.metric(metric, best['metrics'].get(metric))} on {best['split']} after round {best['round']}"


def _levels(metric: str, initial: Record, final: Record, compared: list[tuple[str, float]]) -> list[Level]:
    bars = [("Before round 1", initial.get(metric), "initial"), *((*pair, "baseline") for pair in compared)]
    bars.append(("This run", final.get(metric), "final"))
    known = [(name, value, role) for name, value, role in bars if value is not None]
    top = max([1.0, *(value for _, value, _ in known)]) if not units.falls(metric) else 0.0
    top = top or max((value for _, value, _ in known), default=1.0)
    return [
        Level(name, units.metric(metric, value), 100 * max(0.0, value / top) if top else 0.0, role)
        for name, value, role in known
    ]


def _rounds(run: RunFiles) -> Fact:
    federation = run.recipe.get("federation") or {}
    done = dig(run.summary, "rounds")
    if done is None:
        done = max((row["round"] for row in run.metrics), default=0)
    cohort = federation.get("per_round")
    each = "" if cohort is None else f", {100 * cohort:g} %" if isinstance(cohort, float) else f", {cohort}"
    return Fact("Rounds", units.number(done), f"of {federation.get('rounds')} planned{each and f'{each} clients each'}")


def _protocol(run: RunFiles) -> Fact | None:
    found: Record | None = dig(run.summary, "protocol")
    return Fact("Protocol", str(found["kind"]), units.listed(found)) if found else None


def _clients(run: RunFiles) -> Fact:
    return Fact("Clients", units.number(len(run.clients)), contributions.troubles(run.summary))


def _parameters(run: RunFiles) -> Fact | None:
    counts = dig(run.summary, "parameters")
    if not counts:
        return None
    part = units.share(counts["trainable"], counts["backbone"])
    note = f"parameters, {part} of the backbone’s {units.number(counts['backbone'])}"
    return Fact("Trained", units.number(counts["trainable"]), note)


def _bytes(run: RunFiles) -> Fact | None:
    down, up = run.traffic["down"], run.traffic["up"]
    peer = run.traffic["peer"]
    to_clients = f", of which {units.size(peer)} to other clients" if peer else ""
    note = f"{units.size(down)} down, {units.size(up)} up{to_clients}"
    return Fact("Sent", units.size(down + up), note) if down or up else None


def _time(run: RunFiles) -> Fact | None:
    seconds = dig(run.summary, "seconds")
    if not seconds:
        return None
    phases = [phase for phase in ("train", "evaluate") if seconds.get(phase) and seconds["total"]]
    shares = [f"{phase} {100 * seconds[phase] / seconds['total']:.0f} %" for phase in phases]
    return Fact("Time", units.duration(seconds["total"]), ", ".join(shares))


def _privacy(run: RunFiles) -> Fact:
    said = statement(dig(run.summary, "privacy"))
    return Fact("Privacy", said.epsilon, said.detail)
