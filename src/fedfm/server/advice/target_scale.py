"""Advice: the numbers to predict are far from what a new head can reach in few steps."""

from __future__ import annotations

import numpy as np

from fedfm.server.advice.base import Advice, PlanFacts

FAR = 3
"""Mean, in standard deviations, and factor of the deviation from which numbers are reported."""


def target_scale(facts: PlanFacts) -> Advice | None:
    """Where the task has a centre and a scale, and a simulation knows the numbers."""
    training, task = facts.experiment.data.training, facts.recipe.task
    center, scale = getattr(task, "center", None), getattr(task, "scale", None)
    if training is None or training.train.targets is None or center is None or scale is None:
        return None
    numbers = training.train.targets.astype(np.float64) * np.asarray(scale) + np.asarray(center)
    mean, deviation = numbers.mean(0), numbers.std(0)
    off = np.abs(mean - np.asarray(center)) > FAR * np.asarray(scale)
    ratio = np.where(deviation > 0, deviation / np.asarray(scale), 1.0)
    if not (off | (ratio > FAR) | (ratio < 1 / FAR)).any():
        return None
    return Advice(
        "task.scale",
        f"the training numbers have mean {_shown(mean)} and standard deviation {_shown(deviation)}, far from "
        "task.center and task.scale: the head learns slowly. Set them to round numbers near these",
    )


def _shown(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
