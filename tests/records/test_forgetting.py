"""Figures of continual learning, worked out by hand."""

from __future__ import annotations

import pytest

from fedfm.records.forgetting import continual_figures

TASKS = ("u", "v", "w")
ROWS = [
    {"u": 0.1, "v": 0.2, "w": 0.3},  # before round 1
    {"u": 0.9, "v": 0.4, "w": 0.3},  # after u
    {"u": 0.95, "v": 0.8, "w": 0.1},  # after v
]
NOW = {"u": 0.5, "v": 0.7, "w": 0.6}


def test_after_three_tasks() -> None:
    found = continual_figures(ROWS, NOW, TASKS, metric="accuracy", higher=True)
    assert found == pytest.approx(
        {
            "average_accuracy": (0.5 + 0.7 + 0.6) / 3,
            "forgetting": ((0.95 - 0.5) + (0.8 - 0.7)) / 2,  # u was best after v
            "backward_transfer": ((0.5 - 0.9) + (0.7 - 0.8)) / 2,
            "forward_transfer": ((0.4 - 0.2) + (0.1 - 0.3)) / 2,
        }
    )


def test_the_first_task_has_an_average_only() -> None:
    assert continual_figures(ROWS[:1], NOW, TASKS, metric="f1", higher=True) == {"average_f1": 0.5}


def test_of_an_error_a_rise_is_forgetting() -> None:
    found = continual_figures(ROWS, NOW, TASKS, metric="mae", higher=False)
    assert found["forgetting"] == pytest.approx(((0.5 - 0.9) + (0.7 - 0.4)) / 2)  # the least errors after a task
    assert found["backward_transfer"] == pytest.approx(((0.9 - 0.5) + (0.8 - 0.7)) / 2)


def test_a_task_that_was_not_measured_does_not_count() -> None:
    without = [{name: value for name, value in row.items() if name != "u"} for row in ROWS]
    now = {"v": 0.7, "w": 0.6}
    found = continual_figures(without, now, TASKS, metric="accuracy", higher=True)
    assert found["average_accuracy"] == pytest.approx(0.65)
    assert found["forgetting"] == pytest.approx(0.1)
