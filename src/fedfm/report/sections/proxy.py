"""The proxy: its size, its similarity to the backbone, and the plug-in gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.records import plug_in, units
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles, dig
from fedfm.report import charts, svg
from fedfm.report.sections.parts import Chart, Fact, LegendKey, Table

FIGURES = {
    "gradient_error": "gradient error",
    "gradient_cosine": "cosine",
    "gradient_norm_ratio": "norm ratio",
    "update_cosine": "Adam's first step",
    "agreement": "same prediction",
    "divergence": "divergence",
    "hidden_error": "hidden error",
}
"""Keys of a probe → titles of columns."""


@dataclass(frozen=True)
class ProxySection:
    """The proxy; ``probed``: whether it was compared with the backbone; ``warning``: of a gap at plug-in."""

    kind: str
    warning: str | None
    probed: bool
    facts: list[Fact]
    legend: list[LegendKey]
    charts: list[Chart]
    figures: Table


def proxy(run: RunFiles) -> ProxySection | None:
    """Sizes, probes by stage, and the plug-in gap; None for a run without a proxy."""
    figures: Record = dig(run.summary, "proxy") or {}
    stages = run.rows("proxy")
    if not figures and not stages:
        return None
    probes = [row for row in stages if "agreement" in row]
    gradients = [row for row in probes if row["gradient_cosine"] is not None]
    drawn = [chart for chart in (_preparing(gradients), _tuning(gradients), _blocks(probes)) if chart]
    return ProxySection(
        kind=str(figures.get("title") or figures.get("kind") or dig(run.recipe, "proxy.kind")),
        warning=plug_in.warning(run.summary),
        probed=bool(probes),
        facts=_facts(run, figures, probes),
        legend=_legend(probes) if drawn else [],
        charts=drawn,
        figures=_figures(probes),
    )


def _facts(run: RunFiles, figures: Record, probes: Sequence[Record]) -> list[Fact]:
    """Single figures of the proxy."""
    facts: list[Fact] = []
    if sizes := figures.get("parameters"):
        part = units.share(sizes["blocks"], sizes["backbone_blocks"])
        whole = units.number(sizes["backbone_blocks"])
        facts.append(Fact("Its blocks", units.number(sizes["blocks"]), f"parameters, {part} of the backbone’s {whole}"))
    if (disclosed := figures.get("disclosed")) is not None:
        facts.append(Fact("Disclosed", units.share(disclosed, 1), _disclosed_note(figures)))
    if (gap := figures.get("plug_in_gap")) is not None:
        facts.append(Fact("Plug-in gap", plug_in.difference(run.headline, gap), _gap_note(run, figures)))
    if (distilled := dig(figures, f"distilled.{run.headline}")) is not None:
        plain = units.metric(run.headline, dig(figures, f"plugged.{run.headline}"))
        note = f"the backbone after plug-in distillation; before it {plain}"
        facts.append(Fact("Distilled plug-in", units.metric(run.headline, distilled), note))
    elif any(row.get("kept") == 0 for row in run.rows("proxy")):
        facts.append(Fact("Distilled plug-in", "not kept", "it was no better on validation or held-back public data"))
    if probes:
        first, last = probes[0], probes[-1]
        note = "with the backbone’s gradient" + (f", {_three(first)} at first" if len(probes) > 1 else "")
        facts.append(Fact("Gradient cosine", _three(last), note))
    if first_download := figures.get("first_download"):
        facts.append(Fact("First download", units.size(first_download), "the proxy, once to each client"))
    if seconds := figures.get("seconds"):
        note = f"for fitting, realigning and probing; now version {figures.get('version')}"
        facts.append(Fact("Server’s time", units.duration(seconds), note))
    return facts


def _disclosed_note(figures: Record) -> str:
    note = "of the backbone’s blocks: parameters that clients hold unchanged or nearly so"
    if not (shares := figures.get("disclosed_blocks")):
        return note
    least, most = (units.share(edge(shares.values()), 1) for edge in (min, max))
    return note if least == most else f"{note}; {least} to {most} of a block"


def _three(row: Record) -> str:
    return units.metric("cosine", row["gradient_cosine"])


def _gap_note(run: RunFiles, figures: Record) -> str:
    metric = run.headline
    backbone, own = dig(run.summary, f"final.{metric}"), dig(figures, f"final.{metric}")
    return f"backbone {units.metric(metric, backbone)}, proxy itself {units.metric(metric, own)}, both tuned"


def _legend(probes: Sequence[Record]) -> list[LegendKey]:
    keys = [LegendKey("--test", "cosine with the backbone’s gradient"), LegendKey("--validation", "relative error")]
    return [*keys, LegendKey("--train", f"error when {_stage(probes[0])}")] if _by_block(probes) else keys


def _preparing(probes: Sequence[Record]) -> Chart | None:
    """The gradient by stage, before round 1."""
    rows = [row for row in probes if row["round"] == 0]
    if len(rows) < 2:
        return None
    names, places = [_stage(row) for row in rows], list(range(len(rows)))
    draw = charts.ratios(_gradient_lines(rows, places), axis="before round 1", names=names)
    title = f"Gradient cosine from {_three(rows[0])} when {names[0]} to {_three(rows[-1])} when {names[-1]}"
    return Chart("Gradient while it was fitted", svg.inline("proxy-stages", draw, title=title))


def _tuning(probes: Sequence[Record]) -> Chart | None:
    """The gradient against rounds. It drifts between alignments; each alignment corrects it."""
    rows = [row for row in probes if row["round"]]
    if not rows:
        return None
    rows = [row for row in probes if not row["round"]][-1:] + rows
    draw = charts.ratios(_gradient_lines(rows, [row["round"] for row in rows]), axis="rounds")
    title = f"Gradient cosine against rounds, to {_three(rows[-1])} after round {rows[-1]['round']}"
    return Chart("Gradient while it was tuned", svg.inline("proxy-rounds", draw, title=title))


def _gradient_lines(rows: Sequence[Record], places: Sequence[float]) -> list[charts.Curve]:
    roles = {"gradient_error": "validation", "gradient_cosine": "test"}
    return [charts.Curve(role, places, [row[key] for row in rows]) for key, role in roles.items()]


def _by_block(probes: Sequence[Record]) -> list[dict[str, float]]:
    """Errors of the blocks' outputs by path, of the first and of the last probe that measured them."""
    found = [
        {path: layer["hidden_error"] for path, layer in row["layers"].items() if layer.get("hidden_error") is not None}
        for row in probes
    ]
    measured = [errors for errors in found if errors]
    return [measured[0], measured[-1]] if len(measured) > 1 else measured


def _blocks(probes: Sequence[Record]) -> Chart | None:
    """The error of each compressed block's output, in the first and in the last probe."""
    measured = _by_block(probes)
    if not measured:
        return None
    paths = list(measured[-1])
    places = list(range(len(paths)))
    lines = [
        charts.Curve(role, places, [errors.get(path, math.nan) for path in paths])
        for role, errors in zip(("train", "validation")[-len(measured) :], measured, strict=True)
    ]
    draw = charts.ratios(lines, axis="block", names=[path.rpartition(".")[2] for path in paths])
    title = f"Relative error of what {len(paths)} blocks put out, at most {max(measured[-1].values()):.3f}"
    return Chart("Error of blocks’ outputs", svg.inline("proxy-blocks", draw, title=title))


def _stage(row: Record) -> str:
    return str(row["stage"]).replace("-", " ")


def _figures(probes: Sequence[Record]) -> Table:
    """One row a probe."""
    rows = [
        [_stage(row), str(row["round"])]
        + [units.metric("accuracy" if key == "agreement" else key, row.get(key)) for key in FIGURES]
        for row in probes
    ]
    return Table(["stage", "round", *FIGURES.values()], rows)
