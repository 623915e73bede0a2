"""TensorBoard files, read by TensorBoard's own reader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.trackers.tensorboard import TensorBoard


def record(number: int, loss: float | None, accuracy: float | None = None) -> dict[str, Any]:
    return {
        "round": number,
        "rounds": 3,
        "loss": loss,
        "metrics": {} if accuracy is None else {"test": {"accuracy": accuracy}},
        "clients": {"ok": 9, "failed": 1, "refused": 0},
        "bytes": {"down": 100, "up": 90},
        "seconds": 1.0,
        "eta_seconds": 2.0,
    }


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, round(event.value, 4)) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_every_round_is_a_point_on_every_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    listener = TensorBoard(tmp_path)
    assert list(tmp_path.iterdir()) == []
    listener.on_round(record(1, 0.9, 0.5))
    listener.on_round(record(2, None))  # nobody answered and nothing was evaluated
    listener.on_round(record(3, 0.7, 0.75))
    listener.on_end({})
    found = scalars(tmp_path)
    assert found["loss/train"] == [(1, 0.9), (3, 0.7)]
    assert found["accuracy/test"] == [(1, 0.5), (3, 0.75)]
    assert found["clients/failed"] == [(1, 1), (2, 1), (3, 1)]
    assert found["bytes/down"] == [(1, 100), (2, 100), (3, 100)]


def test_a_resumed_run_does_not_show_a_round_twice(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    killed = TensorBoard(tmp_path)
    for number in (1, 2, 3):
        killed.on_round(record(number, 1.0))
    resumed = TensorBoard(tmp_path)
    for number in (2, 3):
        resumed.on_round(record(number, 0.5))
    resumed.on_end({})
    assert scalars(tmp_path)["loss/train"] == [(1, 1.0), (2, 0.5), (3, 0.5)]


def test_a_run_without_a_round_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    TensorBoard(tmp_path).on_end({})
    assert list(tmp_path.iterdir()) == []


def test_its_absence_is_said_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RecipeError, match=r"make install EXTRAS=track") as caught:
        TensorBoard(tmp_path)
    assert caught.value.problems[0].where == "report_to"
