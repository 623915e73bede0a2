"""The tripwires: what a run checks of itself."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles

CHECK = "check"
"""The kind of these events."""

TITLES = {
    "loaded": "the checkpoint's weights arrived",
    "moved": "what should train has moved",
    "frozen": "what is frozen has not changed",
    "reloaded": "what was written is the measured model",
}
"""Name of a check → what it checks, in the order of a run."""

OUTCOMES = {True: "yes", False: "no"}
"""Whether all is well → the word for it; a check without a comparison has neither."""


@dataclass(frozen=True)
class CheckRow:
    """One check: what it checks, the word for its outcome, the round, and what it found."""

    title: str
    outcome: str
    round: int | None
    found: str


def checks(run: RunFiles) -> list[CheckRow]:
    """The latest outcome of each check, in the order of a run; empty for a run that made none."""
    latest: dict[str, Record] = {}
    for event in run.events:
        if event["kind"] == CHECK:
            latest[str(event.get("check"))] = event
    order = [*(name for name in TITLES if name in latest), *(name for name in latest if name not in TITLES)]
    return [_row(name, latest[name]) for name in order]


def is_passed(event: Record) -> bool:
    """Whether an event is a check that found nothing wrong."""
    return event["kind"] == CHECK and event.get("sound") is not False


def _row(name: str, event: Record) -> CheckRow:
    sound = event.get("sound")
    word = OUTCOMES[sound] if isinstance(sound, bool) else "not compared"
    return CheckRow(TITLES.get(name, name), word, event.get("round"), event["reason"])
