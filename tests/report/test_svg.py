"""Figures that are embedded in the page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes

from fedfm.report import svg

pytestmark = pytest.mark.charts


def draw(axes: Axes) -> None:
    axes.plot([0, 1, 2], [0.123456789, 2, 1], color=svg.COLOURS["test"])
    axes.fill_between([0, 1], [1, 1], color=svg.CATEGORIES[3])
    axes.set_xlabel("$x$ & <b>клиент</b>")


def test_a_figure_is_an_element_with_a_title() -> None:
    image = svg.inline("one", draw, title="loss < 1 & falling")
    root = ElementTree.fromstring(image)  # noqa: S314 - our own
    assert root.attrib["role"] == "img"
    assert root[0].tag.endswith("title")
    assert root[0].text == "loss < 1 & falling"
    assert root.attrib["aria-labelledby"] == root[0].attrib["id"] == "one-title"
    assert "width" not in root.attrib
    assert "viewBox" in root.attrib


def test_colours_are_the_pages_with_their_own_as_fallback() -> None:
    image = svg.inline("one", draw, title="")
    assert f"var(--test, {svg.COLOURS['test']})" in image
    assert f"var(--category-3, {svg.CATEGORIES[3]})" in image
    assert re.findall(r"(?<!, )#[0-9a-f]{6}\b", image) == []  # none is left that a page could not change
    assert {"--ink", "--test", "--category-9"} <= set(svg.variables())


def test_text_is_text_in_the_pages_font_and_never_mathematics() -> None:
    image = svg.inline("one", draw, title="")
    assert "$x$ &amp; &lt;b&gt;клиент&lt;/b&gt;" in image
    assert "font-family" not in image


def test_nothing_is_loaded_and_ids_are_the_figures_own() -> None:
    one, two = (svg.inline(name, draw, title="") for name in ("one", "two"))
    ids = [set(re.findall(r' id="([^"]+)"', image)) for image in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for image, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', image)) <= {(key, "") for key in own} | {
            ("", key) for key in own
        }
        assert not re.search(r'href="(?!#)|<style|<script|<metadata', image)


def test_the_same_figure_is_the_same_to_the_byte() -> None:
    assert svg.inline("one", draw, title="t") == svg.inline("one", draw, title="t")
