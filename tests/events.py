"""Events of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def irregular(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are no sound checks: a run in which all is well has none."""
    return [event for event in events if event["kind"] != "check" or event["sound"] is False]
