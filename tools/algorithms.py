"""The list of algorithms in `docs/algorithms.md`, written from their classes and the docstrings of their modules.

python -m tools.algorithms      # writes it; `make schema` does it
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from fedfm.algorithms import ALGORITHMS, Algorithm

PAGE = Path(__file__).parents[1] / "docs" / "algorithms.md"

BEGIN, END = "<!-- written by tools/algorithms.py -->", "<!-- end -->"


def written(page: str) -> str:
    """A page with the list between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + "\n".join([f"{BEGIN}\n", *_lines(), f"\n{END}"]) + after


def _lines() -> Iterator[str]:
    yield "| name | what it is | settings | source |"
    yield "|---|---|---|---|"
    for name, algorithm in ALGORITHMS.items():
        yield f"| `{name}` | {_first_line(algorithm)} | {_settings(algorithm)} | {_sources(algorithm)} |"
    modules: dict[str, list[str]] = {}
    for name, algorithm in ALGORITHMS.items():
        modules.setdefault(algorithm.__module__, []).append(name)
    for module, names in modules.items():
        yield f"\n### {', '.join(f'`{name}`' for name in names)}\n\n```text"
        yield inspect.cleandoc(sys.modules[module].__doc__ or "")
        yield "```"


def _first_line(algorithm: type[Algorithm]) -> str:
    return " ".join((inspect.getdoc(algorithm) or "").split("\n\n")[0].split()).rstrip(".")


def _settings(algorithm: type[Algorithm]) -> str:
    fields = {key: field for key, field in algorithm.model_fields.items() if key != "name"}
    return ", ".join(f"`{key}` = {json.dumps(field.default)}" for key, field in fields.items())


def _sources(algorithm: type[Algorithm]) -> str:
    papers = re.findall(r"arXiv:(\d{4}\.\d{4,5})", sys.modules[algorithm.__module__].__doc__ or "")
    return ", ".join(f"[arXiv:{paper}](https://arxiv.org/abs/{paper})" for paper in dict.fromkeys(papers))


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
