"""The section about a stream of tasks, by hand."""

from __future__ import annotations

from typing import Any

from fedfm.report import sections
from tests.report.test_sections import run_files


def row(number: int, task: str | None, u: float, v: float, client: str | None = None, **figures: Any) -> dict[str, Any]:
    named = {} if task is None else {"task": task}
    line = {"round": number, "split": "stream", "client": client, "tasks": {"u": u, "v": v}}
    return {**line, **named, **figures}


def test_a_run_without_a_stream_has_no_section() -> None:
    assert sections.continual(run_files()) is None


def test_the_matrix_has_the_last_values_within_each_task() -> None:
    rows = [
        row(0, None, 0.1, 0.2),
        row(1, "u", 0.5, 0.2, average_accuracy=0.5),
        row(2, "u", 0.9, 0.3, average_accuracy=0.9),
        row(3, "v", 0.6, 0.8, average_accuracy=0.7, forgetting=0.3, backward_transfer=-0.3, forward_transfer=0.1),
        row(3, "v", 0.4, 0.8, "anna", average_accuracy=0.6, forgetting=0.5),
        row(3, "v", 0.6, 0.9, "bert", average_accuracy=0.7, forgetting=0.6),
    ]
    found = sections.continual(run_files(summary={"metric": "accuracy"}, metrics=rows))
    assert found is not None
    assert found.matrix.columns == ["after task", "u", "v"]
    assert [line[0] for line in found.matrix.rows] == ["before round 1", "u", "v"]
    assert found.matrix.rows[1][1:] == ["0.900", "0.300"]
    assert [fact.value for fact in found.facts][:2] == ["0.700", "0.300"]
    assert [line[0] for line in found.clients.rows] == ["bert", "anna"]  # who forgot most comes first
    assert found.left_out == 0
