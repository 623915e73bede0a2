"""The section about chosen layers, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedfm.report import charts, sections
from tests.report.test_charts import axes_of
from tests.report.test_sections import run_files

pytestmark = pytest.mark.charts


def row(number: int, counts: list[int], **figures: Any) -> dict[str, Any]:
    layers = {f"encoder.layer.{place}": {"clients": count} for place, count in enumerate(counts)}
    return {"round": number, "split": "selection", "client": None, "layers": layers, **figures}


def test_a_run_without_choices_has_no_section() -> None:
    assert sections.selection(run_files()) is None


def test_means_over_rounds() -> None:
    rows = [
        row(1, [0, 3], distinct_layers=1, budget_used=1.0, disagreement=0.0, unselected_gradient=0.2),
        row(2, [3, 1], distinct_layers=2, budget_used=0.5, disagreement=2.0, unselected_gradient=None),
    ]
    found = sections.selection(run_files(metrics=rows))
    assert found is not None
    layers, budget, disagreement, gradient = found.facts
    assert (layers.name, layers.value) == ("Layers a round", "1.5")
    assert budget.value.startswith("75")
    assert (disagreement.value, gradient.value) == ("1", "0.2")
    assert "encoder.layer.1" in found.charts[0].image


def test_the_more_clients_the_darker() -> None:
    axes = axes_of(charts.heat(np.array([[0.0, 1.0], [0.5, 0.25]]), [4, 5], ["a", "b"]))
    cells = {(bar.get_x() + 0.5, round(bar.get_y() + 0.45)): bar.get_alpha() for bar in axes.patches}  # type: ignore[attr-defined]
    assert cells == pytest.approx({(4.0, 0): 0.0, (5.0, 0): 1.0, (4.0, 1): 0.5, (5.0, 1): 0.25})
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
