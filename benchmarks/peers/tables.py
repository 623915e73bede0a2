"""What was measured, as tables: one a size, then the targets."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from sizes import FEDFM, MINILM, PRODUCTS, PROXY, ROWS, TARGETS, Row, Size, Target

OF_OPERATIONS = 0.8
"""A proxy is to be faster than the model by at least so much of the operations that it saves."""

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
    """How much faster fedfm is, and was meant to be; targets of which a side is not measured are left out.

    Where one is missed, a second line says where fedfm's time goes, and what its bound is.
    """
    return [line for target in TARGETS for line in _compared(target, results)]


def proxies(results: Results) -> list[str]:
    """How much faster clients are with a proxy than with the model, beside how many operations that saves."""
    lines = []
    for precision in ("float32", "bfloat16"):
        whole, proxy = (_best((FEDFM, precision), size, "seconds", results) for size in (MINILM, PROXY))
        if whole and proxy:
            faster = median(whole, "seconds") / median(proxy, "seconds")
            saved = whole[0]["profile"]["operations"] / proxy[0]["profile"]["operations"]
            met = "met" if faster >= OF_OPERATIONS * saved else "MISSED"
            lines.append(
                f"minilm's proxy, {precision}: {faster:.2f} times as fast as the model with {saved:.2f} times fewer "
                f"operations, at least {OF_OPERATIONS * saved:.2f} wanted: {met}"
            )
    return lines


def _compared(target: Target, results: Results) -> list[str]:
    fast, slow = (_best(way, target.size, target.figure, results) for way in (target.fast, target.slow))
    if not fast or not slow:
        return []
    ratio = median(slow, target.figure) / median(fast, target.figure)
    said = (
        f"{target.size.model}: {', '.join(target.slow)} / {', '.join(target.fast)}: {ratio:.1f} in {target.figure}, "
        f"at least {target.factor:g} wanted: {'met' if ratio >= target.factor else 'MISSED'}"
    )
    if ratio >= target.factor:
        return [said]
    bound = _best((PRODUCTS, target.fast[1]), target.size, target.figure, results)
    alone = f"; {PRODUCTS}: {median(bound, 'seconds'):.3f} s a round" if bound else ""
    return [said, f"    {_where(fast[0]['profile'])}{alone}"]


def _best(way: tuple[str, str], size: Size, figure: str, results: Results) -> list[dict[str, Any]]:
    """The repeats of that row of a way which has the least median; none when none was measured."""
    found = [results(size, row) for row in ROWS if (row.name, row.precision) == way]
    return min(filter(None, found), key=lambda repeats: median(repeats, figure), default=[])


def _where(profile: dict[str, Any]) -> str:
    """Where a run's time went."""
    training, whole = profile["training"], profile["seconds"]
    shares = [f"{name} {seconds / sum(training.values()):.0%}" for name, seconds in training.items()]
    return (
        f"training is {whole['train'] / whole['total']:.0%} of the run, of it {', '.join(shares)}; "
        f"{profile['share']:.0%} of the best matrix product"
    )


def median(found: list[dict[str, Any]], figure: str) -> float:
    """Of a figure over the repeats."""
    return statistics.median(result[figure] for result in found)
