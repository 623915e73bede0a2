"""Figures of continual learning, from the value of one metric on each task after each task.

a[t][j] is the value on task j after task t, and a[0][j] that before round 1. After, or within, task k:

    average            A_k = (1/k)·Σ_{j ≤ k} a[k][j]
    forgetting         F_k = (1/(k−1))·Σ_{j < k} (max_{1 ≤ t < k} a[t][j] − a[k][j])
    backward transfer  B_k = (1/(k−1))·Σ_{j < k} (a[k][j] − a[j][j])
    forward transfer   T_k = (1/(k−1))·Σ_{2 ≤ j ≤ k} (a[j−1][j] − a[0][j])

A and F: Chaudhry et al., Riemannian Walk for Incremental Learning, arXiv:1801.10112, §3. A, B and T: Lopez-Paz and
Ranzato, Gradient Episodic Memory for Continual Learning, arXiv:1706.08840, eq. 2 to 4, where T compares with a model at
random initialisation; here it is the one before round 1. Of a metric that is better when lower, differences change
their sign, so that positive forgetting is always a loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SPLIT = "stream"
"""Split of the lines of metrics.jsonl about the tasks of a stream."""

FORGETTING, BACKWARD, FORWARD = "forgetting", "backward_transfer", "forward_transfer"


def average_of(metric: str) -> str:
    """Name of the average of a metric over tasks."""
    return f"average_{metric}"


def continual_figures(
    rows: Sequence[Mapping[str, float]], now: Mapping[str, float], tasks: Sequence[str], *, metric: str, higher: bool
) -> dict[str, float]:
    """The figures within the k-th task, k = ``len(rows)``; forgetting and transfer from the second on.

    A task that is missing in a row was not measured there, and does not count.

    Args:
        rows: task → value, before round 1 and after each of the k − 1 tasks that are over.
        now: task → value.
        tasks: all tasks, in order.
        metric: its name.
        higher: whether it is better when higher.
    """
    number, sign = len(rows), 1 if higher else -1
    seen, earlier = tasks[:number], tasks[: number - 1]
    found = {average_of(metric): _mean([now[task] for task in seen if task in now])}
    if number < 2:
        return _finite(found)
    known = [task for task in earlier if task in now and all(task in row for row in rows)]
    best = {task: max(sign * row[task] for row in rows[1:]) for task in known}
    found[FORGETTING] = _mean([best[task] - sign * now[task] for task in known])
    found[BACKWARD] = _mean([sign * (now[task] - rows[tasks.index(task) + 1][task]) for task in known])
    later = [(place, task) for place, task in enumerate(seen) if place and all(task in rows[p] for p in (0, place))]
    found[FORWARD] = _mean([sign * (rows[place][task] - rows[0][task]) for place, task in later])
    return _finite(found)


def _finite(found: dict[str, float]) -> dict[str, float]:
    """Without figures that have nothing to be the mean of."""
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
