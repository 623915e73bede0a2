"""How far a reader has to go: frames and files of fedfm between `fedfm.run` and three places of a round.

    python benchmarks/nearness.py

Runs two rounds of a tiny model with one client at a time, and prints the stack of the first time that execution comes
to a client's `loss.backward()`, to the bytes of a message to a client, and to the rule's fold of an update. Frames of
other packages are not counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import fedfm

HOUSE = Path(fedfm.__file__).parent

RECIPE = {
    "name": "nearness",
    "model": {"path": "builtin:tiny-bert"},
    "task": {"kind": "text-classification"},
    "data": {"train": "builtin:pydoc", "test": "builtin:pydoc", "limit": 64, "max_length": 16},
    "federation": {"clients": 2, "per_round": 2, "rounds": 2},
    "local": {"max_steps": 1, "batch_size": 4},
    "runtime": {"stack": "off", "processes": 1},
}


@dataclass(frozen=True)
class Place:
    """A place of a round.

    Attributes:
        title: for people.
        file: of the function, under the package or anywhere.
        function: its name.
        frames: at most so many frames lead to it, it included where it is fedfm's.
        files: over so many files at most.
    """

    title: str
    file: str
    function: str
    frames: int
    files: int


PLACES = (
    Place("a client's loss.backward()", str(Path(torch.__file__).parent / "_tensor.py"), "backward", 10, 6),
    Place("the bytes of a message", str(HOUSE / "updates" / "payload.py"), "encode", 8, 5),
    Place("the fold of an update", str(HOUSE / "aggregation" / "mean.py"), "add", 8, 4),
)

Stack = list[tuple[str, str]]
"""File and function, from `fedfm.run` inwards."""


def stacks(run: Callable[[], Any]) -> dict[Place, Stack]:
    """Calls ``run``; fedfm's frames where each place is first reached."""
    found: dict[Place, Stack] = {}
    wanted = {(place.file, place.function): place for place in PLACES}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        place = wanted.get((frame.f_code.co_filename, frame.f_code.co_name)) if event == "call" else None
        if place is not None and place not in found:
            found[place] = _stack(frame)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def _stack(frame: FrameType | None) -> Stack:
    names: Stack = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(HOUSE):
            names.append((path.relative_to(HOUSE).as_posix(), frame.f_code.co_qualname))
        frame = frame.f_back
    return names[::-1]


def main() -> int:
    """Prints the stacks; 1 where one is longer than it may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = stacks(lambda: fedfm.run({**RECIPE, "output": folder}))
    far = False
    for place in PLACES:
        stack = found[place]
        files = len({file for file, _ in stack})
        far |= len(stack) > place.frames or files > place.files
        print(f"{place.title}: {len(stack)} frames over {files} files (at most {place.frames} over {place.files})")
        for file, function in stack:
            print(f"    {file:36} {function}")
    return int(far)


if __name__ == "__main__":
    sys.exit(main())
