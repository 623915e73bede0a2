"""The charts of a report. Each function returns a function that draws on given axes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, MultipleLocator, NullFormatter

from fedfm.records import units
from fedfm.report.svg import CATEGORIES, COLOURS

Draw = Callable[[Axes], None]

FEW = 20
"""Up to this number of clients, each is one bar with its name."""

MANY_ROUNDS = 80
"""More rounds than this are drawn without gaps between bars."""

CLOCK = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
"""Seconds between ticks."""


@dataclass(frozen=True)
class Curve:
    """One curve.

    Attributes:
        role: key of `svg.COLOURS`.
        x: positions, rising.
        y: values; NaN leaves a gap.
    """

    role: str
    x: Sequence[float]
    y: Sequence[float]


def curves(
    lines: Sequence[Curve],
    *,
    metric: str,
    axis: str,
    unit: Callable[[float], str] | None,
    references: Sequence[tuple[str, float]] = (),
) -> Draw:
    """A metric against rounds, bytes or seconds.

    Args:
        lines: the curves, the most important last.
        metric: its name; it decides the format of values.
        axis: label of the x axis.
        unit: format of values of x; None for whole numbers.
        references: names and values of dashed levels.
    """

    def draw(axes: Axes) -> None:
        values = [value for line in lines for value in line.y if math.isfinite(value)]
        for name, level in references:
            _reference(axes, name, level, values, metric)
        for line in lines:
            axes.plot(line.x, line.y, color=COLOURS[line.role], marker="o" if len(line.x) == 1 else None)
        if lines and lines[-1].x:
            _mark_last(axes, lines[-1], metric)
        axes.set_xlabel(axis)
        axes.xaxis.set_major_locator(_locator(unit, max((line.x[-1] for line in lines), default=0)))
        if unit is not None:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(unit(value)) if value else "0"))
        _metric_axis(axes, metric, [*values, *(level for _, level in references)])

    return draw


def ratios(lines: Sequence[Curve], *, axis: str, names: Sequence[str] | None = None) -> Draw:
    """Figures near 0 to 1, over rounds or over named places.

    Args:
        lines: the curves, the most important last; each is labelled with its last value.
        axis: label of the x axis.
        names: names of the places 0, 1, …; None where x is a number.
    """

    def draw(axes: Axes) -> None:
        for line in lines:
            axes.plot(line.x, line.y, color=COLOURS[line.role], marker="o", markersize=2.5)
            if math.isfinite(line.y[-1]):
                place, text = (line.x[-1], line.y[-1]), units.typeset(f"{line.y[-1]:.3f}")
                axes.annotate(text, place, xytext=(5, -3), textcoords="offset points", fontweight="bold")
        axes.set_xlabel(axis)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if names is not None:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: dict(enumerate(names)).get(place, "")))
            axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(bottom=1.1 * min([0.0, *(value for line in lines for value in line.y)]))
        axes.yaxis.set_major_locator(MaxNLocator(5))

    return draw


def stacked_labels(counts: np.ndarray, names: Sequence[str], *, below: str) -> Draw:
    """Examples of each client by label: named bars for few clients, an area chart for many.

    Args:
        counts: examples, ``[labels, clients]``, clients in the order to draw.
        names: clients' names, in that order.
        below: label of the x axis of an area chart.
    """

    def draw(axes: Axes) -> None:
        floor = np.zeros(counts.shape[1])
        positions, edges = np.arange(counts.shape[1]), np.arange(counts.shape[1] + 1) - 0.5
        for colour, row in zip(CATEGORIES, counts, strict=False):
            if len(names) <= FEW:
                axes.barh(positions, row, left=floor, color=colour, height=0.82)
            else:
                axes.stairs(floor + row, edges, baseline=floor, fill=True, color=colour, linewidth=0)
            floor = floor + row
        if len(names) <= FEW:
            _name_axis(axes, names)
            axes.set_xlabel("examples")
            return
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(bottom=0)
        axes.set_xticks([])
        axes.set_xlabel(below)
        axes.set_ylabel("examples")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    return draw


def sorted_values(values: Sequence[float], names: Sequence[str], *, metric: str) -> Draw:
    """A metric of every client in ascending order: named bars for few clients, a curve for many.

    Args:
        values: ascending.
        names: clients' names, in that order.
        metric: its name.
    """

    def draw(axes: Axes) -> None:
        positions = np.arange(len(values))
        if len(values) <= FEW:
            axes.barh(positions, values, color=COLOURS["test"], height=0.82)
            _name_axis(axes, names)
            axes.xaxis.set_major_formatter(_metric_formatter(metric))
            return
        percent = 100 * (positions + 0.5) / len(values)
        axes.plot(percent, values, color=COLOURS["test"])
        axes.fill_between(percent, values, values[0], color=COLOURS["test"], alpha=0.12, linewidth=0)
        axes.set_xlim(0, 100)
        axes.set_xlabel("clients, from the lowest")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
        _metric_axis(axes, metric, values)

    return draw


def value_by_size(sizes: Sequence[int], values: Sequence[float], *, metric: str) -> Draw:
    """The metric of each client against its number of examples: shows whether small clients are served worse."""

    def draw(axes: Axes) -> None:
        axes.scatter(sizes, values, s=14, color=COLOURS["test"], alpha=0.55, linewidths=0)
        axes.set_xlabel("examples of the client")
        if min(sizes) > 0 and max(sizes) > 30 * min(sizes):
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.number(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        _metric_axis(axes, metric, list(values))

    return draw


def heat(shares: np.ndarray, rounds: Sequence[int], names: Sequence[str], *, below: str = "round") -> Draw:
    """Shares of 0 to 1 as cells of one colour, the darker the larger.

    Args:
        shares: ``[rows, columns]``.
        rounds: numbers of the columns, rising.
        names: of the rows, the first at the top.
        below: what the numbers of the columns are.
    """

    def draw(axes: Axes) -> None:
        for place, row in enumerate(shares):
            bars = axes.bar(rounds, 0.9, bottom=place - 0.45, width=1.0, color=COLOURS["test"], linewidth=0)
            for bar, share in zip(bars, row, strict=True):
                bar.set_alpha(float(min(max(share, 0.0), 1.0)))
        _name_axis(axes, names)
        axes.grid(visible=False, axis="x")
        axes.set_xlim(rounds[0] - 0.5, rounds[-1] + 0.5)
        axes.set_xlabel(below)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    return draw


def histogram(values: Sequence[float], *, axis: str) -> Draw:
    """The number of clients by number of examples."""

    def draw(axes: Axes) -> None:
        bins = min(24, max(values) - min(values) + 1, max(5, math.isqrt(len(values)) * 2))
        axes.hist(values, bins=int(bins), color=COLOURS["train"], rwidth=0.88)
        axes.set_xlabel(axis)
        axes.set_ylabel("clients")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    return draw


def traffic(rounds: Sequence[int], down: Sequence[int], up: Sequence[int]) -> Draw:
    """Bytes of each round: down above the zero line, up below it."""

    def draw(axes: Axes) -> None:
        edges = np.append(np.asarray(rounds), rounds[-1] + 1) - 0.5
        for values, role in ((np.asarray(down), "down"), (np.negative(up), "up")):
            if len(rounds) <= MANY_ROUNDS:
                axes.bar(rounds, values, color=COLOURS[role], width=0.82)
            else:
                axes.stairs(values, edges, fill=True, color=COLOURS[role], linewidth=0)
        axes.axhline(0, color=COLOURS["muted"], linewidth=0.8)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(units.size(abs(value))) if value else "0"))

    return draw


def stacked_seconds(rounds: Sequence[int], computing: Sequence[float], sending: Sequence[float]) -> Draw:
    """Seconds of each round: computation, and communication on top of it."""

    def draw(axes: Axes) -> None:
        edges = np.append(np.asarray(rounds), rounds[-1] + 1) - 0.5
        floor = np.zeros(len(rounds))
        for values, role in ((np.asarray(computing), "test"), (np.asarray(sending), "up")):
            if len(rounds) <= MANY_ROUNDS:
                axes.bar(rounds, values, bottom=floor, color=COLOURS[role], width=0.82)
            else:
                axes.stairs(floor + values, edges, baseline=floor, fill=True, color=COLOURS[role], linewidth=0)
            floor = floor + values
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(units.duration(value)) if value else "0"))

    return draw


def bars_height(count: int) -> float:
    """The height in inches of a chart with this number of named bars."""
    return 0.6 + 0.22 * count


def shorten(name: str, length: int = 22) -> str:
    """A name, shortened in its middle to at most ``length`` characters."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[head + 1 - length :]}"


def _locator(unit: Callable[[float], str] | None, last: float) -> Locator:
    """About five ticks from 0 to ``last``: on whole rounds, on round amounts, on the steps of a clock."""
    if unit is not units.duration:
        return MaxNLocator(5, integer=unit is None)
    return MultipleLocator(next((step for step in CLOCK if last <= 5 * step), last / 5))


def _tick(text: str) -> str:
    """A quantity without needless decimals: ``50 MB`` for ``50.0 MB``."""
    return re.sub(r"\.0+(?= )|(?<=\.\d)0(?= )", "", text)


def _mark_last(axes: Axes, line: Curve, metric: str) -> None:
    """Marks the end of a curve with a dot and its value."""
    x, y = line.x[-1], line.y[-1]
    if not math.isfinite(y):
        return
    axes.plot([x], [y], marker="o", markersize=4, color=COLOURS[line.role])
    higher = not units.falls(metric)
    axes.annotate(
        units.metric(metric, y),
        (x, y),
        xytext=(0, -12 if higher else 7),
        textcoords="offset points",
        ha="right",
        color=COLOURS["ink"],
        fontweight="bold",
    )


def _reference(axes: Axes, name: str, level: float, values: Sequence[float], metric: str) -> None:
    """A dashed level with its name, on the side where a learning curve leaves space."""
    axes.axhline(level, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (3, 3)))
    above = bool(values) and level > (min(values) + max(values)) / 2
    left = above != units.falls(metric)
    axes.annotate(
        name,
        (0.0 if left else 1.0, level),
        xycoords=("axes fraction", "data"),
        xytext=(2 if left else -2, 2),
        textcoords="offset points",
        ha="left" if left else "right",
        fontsize=7.5,
        color=COLOURS["muted"],
    )


def _metric_axis(axes: Axes, metric: str, values: Sequence[float]) -> None:
    """The y axis of a metric, logarithmic where a perplexity falls by orders of magnitude."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) == max(finite):
        _show_level(axes, metric, finite[0])
    if metric == "perplexity" and finite and min(finite) > 0 and max(finite) > 10 * min(finite):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(_metric_formatter(metric))


def _show_level(axes: Axes, metric: str, value: float) -> None:
    """Limits around a constant value, within the range of the metric."""
    room = 0.05 if units.is_share(metric) else 0.05 * abs(value) or 1.0
    low, high = value - room, value + room
    axes.set_ylim(max(low, 0.0) if value >= 0 else low, min(high, 1.0) if units.is_share(metric) else high)


def _metric_formatter(metric: str) -> FuncFormatter:
    if units.is_share(metric):
        return FuncFormatter(lambda value, _: units.typeset(f"{100 * value:.4g} %"))
    return FuncFormatter(lambda value, _: units.typeset(f"{value:,.4g}"))


def _name_axis(axes: Axes, names: Sequence[str]) -> None:
    """Clients' names down the left, the first at the top."""
    axes.set_yticks(range(len(names)), [shorten(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(5))
