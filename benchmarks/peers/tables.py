"""What was measured, as tables: one a size, then the targets."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from sizes import FEDFM, ROWS, TARGETS, Row, Size, Target

Results = Callable[[Size, Row], list[dict[str, Any]]]
"""All repeats of a way to do a job that were measured."""


def table(size: Size, results: Results) -> list[str]:
    """A line for each way that was measured."""
    measured = {row.label: results(size, row) for row in ROWS}
    lines = [
        f"\n{size.name}, {size.optimizer}",
        f"{'':52}{'s a round':>10}{'(min-max)':>17}{'CPU s':>9}{'first':>8}{'MiB':>7}{'x ours':>8}{'differs':>9}",
    ]
    for row in ROWS:
        if not (found := measured[row.label]):
            continue
        times = [result["seconds"] for result in found]
        ours = measured[f"{FEDFM}, {row.precision}"]
        ratio = f"{median(found, 'seconds') / median(ours, 'seconds'):.2f}" if ours else "-"
        differs = "-" if found[0]["differs"] is None else f"{median(found, 'differs'):.1e}"
        lines.append(
            f"{row.label:52}{median(found, 'seconds'):>10.3f}{f'({min(times):.3f}-{max(times):.3f})':>17}"
            f"{median(found, 'cpu_seconds'):>9.2f}{median(found, 'first_seconds'):>8.1f}"
            f"{median(found, 'peak_mib'):>7.0f}{ratio:>8}{differs:>9}"
        )
    return lines if len(lines) > 2 else []


def targets(results: Results) -> list[str]:
    """How much faster fedfm is, and was meant to be; targets of which a side is not measured are left out."""
    return [line for target in TARGETS if (line := _compared(target, results))]


def _compared(target: Target, results: Results) -> str:
    fast, slow = _best(target.fast, target, results), _best(target.slow, target, results)
    if fast is None or slow is None:
        return ""
    verdict = "met" if slow / fast >= target.factor else "MISSED"
    return (
        f"{target.size.model}: {', '.join(target.slow)} / {', '.join(target.fast)}: {slow / fast:.1f} in "
        f"{target.figure}, at least {target.factor:g} wanted: {verdict}"
    )


def _best(way: tuple[str, str], target: Target, results: Results) -> float | None:
    """The least median of a way's rows; None when none was measured."""
    found = [results(target.size, row) for row in ROWS if (row.name, row.precision) == way]
    return min((median(repeats, target.figure) for repeats in found if repeats), default=None)


def median(found: list[dict[str, Any]], figure: str) -> float:
    """Of a figure over the repeats."""
    return statistics.median(result[figure] for result in found)
