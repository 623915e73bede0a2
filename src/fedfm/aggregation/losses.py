"""Losses that clients report: within bounds, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Collection

SMALLEST, LARGEST = 1e-10, 1e6
"""Losses count as if they were between these, so that their powers are finite."""


def bounded(loss: float) -> float:
    """A loss as it counts."""
    return min(max(loss, SMALLEST), LARGEST)


def spread_of(losses: Collection[float]) -> dict[str, float]:
    """``worst_loss``, the largest of some clients' losses, and ``loss_variance``, over clients; empty for no losses."""
    if not losses:
        return {}
    mean = sum(losses) / len(losses)
    return {"worst_loss": max(losses), "loss_variance": sum((loss - mean) ** 2 for loss in losses) / len(losses)}
