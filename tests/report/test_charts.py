"""Axes of the charts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedfm.records import units
from fedfm.report import charts


def axes_of(draw: charts.Draw) -> Axes:
    figure = Figure(figsize=(4, 2.4))
    axes = figure.subplots()
    draw(axes)
    figure.canvas.draw()
    return axes


def tick_labels(axes: Axes) -> list[str]:
    low, high = axes.get_xlim()
    return [text.get_text() for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high]


def test_a_curve_ends_with_its_value_and_leaves_gaps() -> None:
    line = charts.Curve("test", [0, 1, 2, 3], [0.5, math.nan, 0.7, 0.8714])
    axes = axes_of(
        charts.curves([line], metric="accuracy", axis="rounds", unit=None, references=[("Commonest class", 0.3)])
    )
    assert [text.get_text() for text in axes.texts] == ["Commonest class", "87.1 %"]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), [0.5, math.nan, 0.7, 0.8714])
    assert tick_labels(axes) == ["0", "1", "2", "3"]


def test_a_curve_that_ends_in_nothing_has_no_last_value() -> None:
    line = charts.Curve("test", [0, 1], [0.5, math.nan])
    assert list(axes_of(charts.curves([line], metric="loss", axis="rounds", unit=None)).texts) == []


@pytest.mark.parametrize(
    ("last", "labels"),
    [(140, ["0", "30 s", "1 min", "1 min 30 s", "2 min"]), (4.2, ["0", "1 s", "2 s", "3 s", "4 s"])],
)
def test_time_ticks_fall_where_a_clock_has_them(last: float, labels: list[str]) -> None:
    line = charts.Curve("test", [0, last], [1.0, 0.5])
    assert tick_labels(axes_of(charts.curves([line], metric="loss", axis="time", unit=units.duration))) == labels


def test_bytes_are_written_without_needless_decimals() -> None:
    line = charts.Curve("test", [0, 2e6], [1.0, 0.5])
    labels = tick_labels(axes_of(charts.curves([line], metric="loss", axis="bytes", unit=units.size)))
    assert labels == ["0", "500 kB", "1 MB", "1.5 MB", "2 MB"]


def test_a_perplexity_that_falls_far_is_logarithmic() -> None:
    far, near = (charts.Curve("test", [0, 1], [start, 50.0]) for start in (1000.0, 60.0))
    assert axes_of(charts.curves([far], metric="perplexity", axis="rounds", unit=None)).get_yscale() == "log"
    assert axes_of(charts.curves([near], metric="perplexity", axis="rounds", unit=None)).get_yscale() == "linear"


def test_bars_of_a_few_clients_are_stacked_under_their_names() -> None:
    counts = np.array([[3.0, 0.0], [1.0, 5.0]])
    axes = axes_of(charts.stacked_labels(counts, ["a", "b" * 40], below=""))
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0, 3), (0, 0), (3, 1), (0, 5)]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", f"{'b' * 10}…{'b' * 11}"]


def test_down_is_above_and_up_below() -> None:
    bars = axes_of(charts.traffic([1, 2], [10, 20], [5, 6])).patches
    assert [bar.get_height() for bar in bars] == [10, 20, -5, -6]


def test_ratios_stand_over_named_places_from_zero_or_below() -> None:
    lines = [charts.Curve("test", [0, 1, 2], [0.9, 0.8, 0.75]), charts.Curve("train", [0, 1, 2], [0.1, 0.2, math.nan])]
    axes = axes_of(charts.ratios(lines, axis="block", names=["3", "4", "5"]))
    assert [text.get_text() for text in axes.texts] == ["0.750"]
    assert tick_labels(axes) == ["3", "4", "5"]
    assert axes.get_ylim()[0] == 0
    below = charts.ratios([charts.Curve("test", [1, 5], [-0.5, 0.5])], axis="rounds")
    assert axes_of(below).get_ylim()[0] == pytest.approx(-0.55)


def test_sizes_over_orders_of_magnitude_are_logarithmic() -> None:
    assert axes_of(charts.value_by_size([1, 50], [0.1, 0.2], metric="accuracy")).get_xscale() == "log"
    assert axes_of(charts.value_by_size([10, 50], [0.1, 0.2], metric="accuracy")).get_xscale() == "linear"


def test_names_are_cut_in_the_middle() -> None:
    assert charts.shorten("email.message") == "email.message"
    assert charts.shorten("abcdefghij", 5) == "ab…ij"


def test_a_value_that_never_changes_stands_beside_its_reference() -> None:
    line = charts.Curve("test", [0, 1, 2], [0.2] * 3)
    axes = axes_of(charts.curves([line], metric="accuracy", axis="rounds", unit=None, references=[("Other", 0.9)]))
    low, high = axes.get_ylim()
    assert low < 0.2
    assert high > 0.9


@pytest.mark.parametrize(("metric", "value"), [("accuracy", 0.0), ("accuracy", 1.0), ("loss", 0.0), ("matthews", -0.5)])
def test_a_value_that_never_changes_stands_on_an_axis_of_values_that_can_be(metric: str, value: float) -> None:
    line = charts.Curve("test", [0, 1, 2], [value] * 3)
    axes = axes_of(charts.curves([line], metric=metric, axis="rounds", unit=None))
    low, high = axes.get_ylim()
    assert low <= value <= high
    assert high - low >= 0.04
    if metric != "matthews":
        assert low >= 0
    if metric == "accuracy":
        assert high <= 1
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert all(len(label) <= 7 and "e" not in label and "-" not in label for label in labels)
