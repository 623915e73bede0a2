"""Runs the code on a model's card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fedfm.models.quiet import quiet


def by_the_card(target: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the card's code defines, run as it stands from the folder that the card lies in."""
    code = re.search(r"```python\n(.*?)```", (target / "README.md").read_text(), re.DOTALL)
    assert code is not None
    assert "fedfm" not in code[1]
    names: dict[str, Any] = {}
    monkeypatch.chdir(target)
    with quiet():
        exec(compile(code[1], "card", "exec"), names)  # noqa: S102 - what the card tells its reader to do
    return names
