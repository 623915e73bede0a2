"""Renders the templates of this folder; a missing name is an error, never an empty string."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedfm.printable import escaped
from fedfm.report import markdown


def render(template: str, *, autoescape: bool, **values: object) -> str:
    """A template with its values.

    Args:
        template: name of the file.
        autoescape: whether values are escaped for HTML.
        values: the variables of the template.
    """
    return _environment(autoescape).get_template(template).render(values)


@cache
def _environment(autoescape: bool) -> Environment:
    """It keeps the templates that it has compiled."""
    environment = Environment(
        loader=PackageLoader("fedfm.report", "."),
        autoescape=autoescape,  # noqa: S701 - off for Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters |= {"code": markdown.code, "prose": markdown.prose, "literal": markdown.literal}
    return environment


def _shown(value: object) -> object:
    """A value that is safe in a page."""
    return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value
