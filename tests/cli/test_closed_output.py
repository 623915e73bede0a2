"""A run whose output is closed (a pipe, a terminal) ends as after Ctrl-C."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fedfm.server import resume
from tests.events import irregular
from tests.small import small_recipe

PROGRAM = (sys.executable, "-m", "fedfm.cli.main")


def start(recipe: Path, output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, "run", str(recipe)], stdin=output, stdout=output, stderr=output, start_new_session=True
    )


def read_until(text: bytes, source: int) -> None:
    said = b""
    while text not in said:
        part = os.read(source, 1024)
        assert part, said
        said += part


@pytest.mark.parametrize(
    ("opened", "reasons"),
    [(os.pipe, ("output was closed",)), (os.openpty, ("output was closed", "terminal was closed"))],
    ids=["a pipe", "a terminal"],
)
def test_it_is_interrupted_and_can_be_resumed(
    opened: Callable[[], tuple[int, int]], reasons: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    federation = {"clients": 2, "per_round": 2, "rounds": 2000}
    file.write_text(yaml.safe_dump(small_recipe(tmp_path, federation=federation)))
    reader, writer = opened()
    process = start(file, writer)
    os.close(writer)
    read_until(b"round", reader)
    read_until(b"loss", reader)
    os.close(reader)
    assert process.wait(120) == 130
    run = tmp_path / "runs" / "small"
    summary, events = (run / name for name in ("summary.json", "events.jsonl"))
    assert json.loads(summary.read_text())["status"] == "interrupted"
    (event,) = irregular(json.loads(line) for line in events.read_text().splitlines())
    assert (event["kind"], event["client"]) == ("interrupted", None)
    assert event["reason"].startswith("stopped ")
    assert any(reason in event["reason"] for reason in reasons)
    played = json.loads(summary.read_text())["rounds"]
    assert event["round"] == played >= 1
    assert resume(run, [f"federation.rounds={played + 1}"]).summary["rounds"] == played + 1
