"""A run over a stream of tasks: what it writes, and that it goes on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedfm import resume, run
from fedfm.params import digest
from fedfm.recipe import load_recipe
from fedfm.records.folder import RunFolder
from fedfm.records.reading import read_run
from tests.small import small_recipe


def recipe(folder: Path, name: str, rounds: int) -> dict[str, Any]:
    stream = {"kind": "column", "column": "site", "rounds": 1, "order": ["a", "b", "c", "d", "e"]}
    return small_recipe(
        folder,
        name=name,
        federation={"clients": 3, "rounds": rounds, "stream": stream, "holdout": 0.4},
        local={
            "batch_size": 5,
            "learning_rate": 0.01,
            "lr_scheduler_type": "constant",
            "replay": {"examples": 4, "share": 0.5},
        },
        algorithm={"name": "ewc", "samples": 2, "strength": 10.0},
        tune={"kind": "lora", "r": 2},
        evaluate={"every": 5, "clients": 1},
    )


def test_a_stream_of_five_tasks_and_its_resumption(tmp_path: Path) -> None:
    whole = run(load_recipe(recipe(tmp_path, "whole", 5)))
    summary = whole.summary["stream"]
    assert summary["tasks"] == ["a", "b", "c", "d", "e"]
    assert summary["seen"] == 5
    assert [len(row) for row in summary["matrix"]] == [5] * 6  # before round 1, and after each task
    last = summary["matrix"][-1]
    assert summary["average_accuracy"] == pytest.approx(sum(last) / 5)
    assert whole.summary["final"]["accuracy"] == pytest.approx(sum(last) / 5)  # tasks have equally many test examples

    files = read_run(RunFolder.open(whole.path))
    rows = files.rows("stream")
    assert [row["round"] for row in rows if row["client"] is None] == [0, 1, 2, 3, 4, 5]  # though every is 5
    assert len({row["client"] for row in rows}) == 2  # the test set, and one client (evaluate.clients)
    asked = [(row["round"], row["direction"]) for row in _wire(whole.path) if row.get("work") == "fisher"]
    assert {number for number, _ in asked} == {1, 2, 3, 4}  # not after the last
    assert "Each task after each task" in (whole.path / "report.html").read_text()

    run(load_recipe(recipe(tmp_path, "part", 3)))
    part = resume(tmp_path / "runs" / "part", ["federation.rounds=5"])
    assert digest(part.state.params) == digest(whole.state.params)
    assert part.summary["stream"] == summary


def _wire(folder: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in (folder / "wire.jsonl").read_text().splitlines()]
