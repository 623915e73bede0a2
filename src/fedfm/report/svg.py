"""Matplotlib figures as inline SVG with the font of the page, its light and dark colours, and a title.

Figures are drawn in the colours of the light theme. In inline SVG each colour becomes a CSS variable with that colour
as its fallback, so that the dark theme can redefine it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "ink": "#1b2330",
    "muted": "#687385",
    "grid": "#e4e8ef",
    "train": "#9aa3b2",
    "test": "#3b63d1",
    "validation": "#d9822b",
    "clients": "#8f5bbd",
    "down": "#5b8def",
    "up": "#2fa58f",
}
"""Colours by role; `report.css` has their values in the dark theme."""

CATEGORIES = (
    "#4a6fdc", "#eab02f", "#f0735f", "#62bfae", "#4bab5b", "#f291b9", "#9a6be0", "#93b5ee", "#a0755b", "#9aa0a9",
)  # fmt: skip
"""Colours of labels, in an order that colour-blind readers can distinguish; the last is for all further labels."""

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["grid"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": 8.5,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 8.5,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "fedfm",
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # a client may be called $x$
    "xtick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": COLOURS["muted"],
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}

_VARIABLES = {colour: f"--{role}" for role, colour in COLOURS.items()} | {
    colour: f"--category-{index}" for index, colour in enumerate(CATEGORIES)
}


@contextmanager
def style() -> Iterator[None]:
    """Sets the style of figures; use it around drawing and saving."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")  # the fonts of the reader have it
        yield


def figure(draw: Callable[[Axes], None], *, width: float = 4.0, height: float = 2.4) -> Figure:
    """A figure of one drawing; width and height in inches. Call inside `style`."""
    canvas = Figure(figsize=(width, height), layout="constrained")
    draw(canvas.subplots())
    return canvas


def inline(name: str, draw: Callable[[Axes], None], *, title: str, width: float = 4.0, height: float = 2.4) -> Markup:
    """A drawing as an ``<svg>`` element.

    Args:
        name: unique in the page; letters, digits, hyphens and underscores.
        draw: draws on the axes it is given.
        title: what the drawing shows, for screen readers.
        width: inches at natural size; the page scales it.
        height: inches.
    """
    text = io.StringIO()
    with style():
        figure(draw, width=width, height=height).savefig(text, format="svg", transparent=True)
    return Markup(_adopt(text.getvalue(), name, title))  # noqa: S704 - matplotlib escapes text


def variables() -> dict[str, str]:
    """CSS variable → colour of the light theme."""
    return {variable: colour for colour, variable in _VARIABLES.items()}


def _adopt(svg: str, name: str, title: str) -> str:
    """Reduces a stand-alone SVG file to an element for a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+|\s+", r"\1 ", match[0]).replace("  ", " "), svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda match: _variable(match[0]), svg)
    head = f'<svg role="img" aria-labelledby="{name}-title"'
    return svg.replace("<svg", head, 1).replace(">", f'><title id="{name}-title">{escape(title)}</title>', 1)


def _variable(colour: str) -> str:
    return f"var({_VARIABLES[colour]}, {colour})" if colour in _VARIABLES else colour
