"""A site's own records of what it refused, what failed and how runs ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from fedfm.errors import StorageError
from fedfm.records import disk, jsonl


class Journal:
    """Says what happens at a site, and records it with the full reason.

    Attributes:
        events: ``events.jsonl`` of the site: lines with ``time``, ``kind``, ``run``, ``reason``, ``details``.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """A journal that continues the one in a folder.

        Args:
            folder: of the site's own records.
            say: gets the lines for people.
        """
        self.events = folder / "events.jsonl"
        self._say = say
        end_with_a_line(self.events)

    def note(self, kind: str, run: str | None, reason: str, details: str = "") -> None:
        """Says what happened and records it; a full disk does not stop the site.

        Args:
            kind: ``refused``, ``failed``, ``ended``, ``asked``.
            run: name of the run; None where it is not known.
            reason: the full reason.
            details: a traceback, or nothing.
        """
        place = f"run {run}: " if run else ""
        self._say("\n".join(filter(None, [f"{place}{kind}: {reason}", details])))
        time = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            append(self.events, {"time": time, "kind": kind, "run": run, "reason": reason, "details": details})
        except StorageError as error:
            self._say(str(error))


def append(file: Path, record: Mapping[str, object]) -> None:
    """Appends a whole line, or nothing, to a file that only this user can read.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        with disk.storage(file, "write"):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with file.open("ab") as lines:
                lines.write(jsonl.line(record))
    except StorageError:
        end_with_a_line(file)
        raise


def end_with_a_line(path: Path) -> None:
    """Cuts off a last line that was written only in part."""
    if path.is_file():
        with disk.storage(path, "repair"), path.open("r+b") as lines:
            text = lines.read()
            lines.truncate(text.rfind(b"\n") + 1)
