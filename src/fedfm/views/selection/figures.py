"""What a choice of layers neglects, in the terms of the convergence bound of Sun et al., arXiv:2408.15600.

α_i is client i's share of the examples of its round, A_l the α-mass of those that chose layer l.

- E1, the gradient of layers that nobody trains: Σ_{l chosen by nobody} Σ_i α_i·‖g_i,l‖², which is not less than the
  squared norm of the mean gradient there.
- E2, weights that differ from the data: χ²(w_·,l ‖ α) = 1/A_l − 1, where w_i,l = α_i·m_i(l)/A_l. The diversity κ_l² by
  which it counts is not observed; Σ_i α_i·‖g_i,l‖² is not less than it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def choice_figures(
    names: Sequence[str],
    masks: np.ndarray,
    examples: Sequence[int],
    *,
    spent: np.ndarray,
    budgets: np.ndarray,
    gradient: np.ndarray | None,
) -> dict[str, Any]:
    """A line of metrics.jsonl about a choice.

    Args:
        names: of the layers, L.
        masks: bool ``[N, L]``.
        examples: of the clients.
        spent: cost of each client's choice, ``[N]``.
        budgets: what each may spend, ``[N]``; infinite ones do not count.
        gradient: ‖g_i,l‖², ``[N, L]``; None where it was not measured.

    Returns:
        ``distinct_layers``, ``budget_used`` (the mean share), ``disagreement`` (Σ_l χ²), with ``gradient`` also
        ``unselected_gradient`` (E1) and ``disagreement_bound`` (E2), and ``layers``: name → clients that chose it.
    """
    alpha = np.maximum(np.array(examples, float), 1.0)
    alpha /= alpha.sum()
    mass, chosen = alpha @ masks, masks.any(0)
    apart = np.where(chosen, 1 / np.where(chosen, mass, 1.0) - 1, 0.0)
    limited = np.isfinite(budgets)
    found: dict[str, Any] = {
        "distinct_layers": int(chosen.sum()),
        "budget_used": float((spent[limited] / budgets[limited]).mean()) if limited.any() else 1.0,
        "disagreement": float(apart.sum()),
    }
    layers: dict[str, dict[str, float]] = {
        name: {"clients": int(count)} for name, count in zip(names, masks.sum(0), strict=True)
    }
    if gradient is not None:
        mean = alpha @ gradient
        found |= {"unselected_gradient": float(mean[~chosen].sum()), "disagreement_bound": float(apart @ mean)}
        for name, value in zip(names, mean, strict=True):
            layers[name]["gradient"] = float(value)
    return {**found, "layers": layers}
