"""P1 as a mixed integer linear programme, solved exactly by HiGHS (`scipy.optimize.milp`).

Variables: m_i(l); y_{l,k} = [c_l = k], of which exactly one is 1 for each layer; and, where depth costs something, the
continuous p_i(l) ≥ m_i(j) for all j ≤ l, which is 1 from the lowest chosen layer on. The objective is linear in them:

    minimise −Σ m_i(l)·s_i(l) + λ·Σ_l Σ_k k·(N − k)·y_{l,k}

Seconds for N·L up to about 250; much longer beyond.
"""

from __future__ import annotations

import numpy as np

from fedfm.views.selection.problem import SelectionProblem


def solve(problem: SelectionProblem) -> np.ndarray:
    """The masks with the highest objective, bool ``[N, L]``.

    Raises:
        RuntimeError: HiGHS did not solve it.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    (clients, layers), costs = problem.scores.shape, problem.costs
    cells, counts = clients * layers, np.arange(clients + 1)
    size = cells + layers * (clients + 1) + cells
    mask = np.arange(cells).reshape(clients, layers)
    unary = cells + np.arange(layers * (clients + 1)).reshape(layers, clients + 1)
    passed = size - cells + mask
    rows: list[tuple[np.ndarray, np.ndarray, float, float]] = []
    for layer in range(layers):
        rows.append((unary[layer], np.ones(clients + 1), 1, 1))
        rows.append((np.r_[unary[layer], mask[:, layer]], np.r_[counts, -np.ones(clients)], 0, 0))
    for client in range(clients):
        budget = problem.budgets[client]
        if np.isfinite(budget):
            every, amounts = np.r_[mask[client], passed[client]], np.r_[costs.each, costs.depth]
            rows.append((every, amounts, -np.inf, budget))
        if not costs.depth.any():
            continue
        for layer in range(layers):
            pair = np.array([mask[client, layer], passed[client, layer]])
            rows.append((pair, np.array([1.0, -1.0]), -np.inf, 0))
            if layer:
                rows.append((passed[client, layer - 1 : layer + 1], np.array([1.0, -1.0]), -np.inf, 0))
    places = np.concatenate([np.full(len(columns), row) for row, (columns, *_) in enumerate(rows)])
    columns = np.concatenate([columns for columns, *_ in rows])
    values = np.concatenate([values for _, values, *_ in rows])
    matrix = coo_array((values, (places, columns)), shape=(len(rows), size)).tocsr()
    objective = np.zeros(size)
    objective[mask] = -problem.scores
    objective[unary] = problem.lam * counts * (clients - counts)
    found = milp(
        objective,
        integrality=(np.arange(size) < size - cells).astype(int),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, [low for *_, low, _ in rows], [high for *_, high in rows]),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None or found.status != 0:
        raise RuntimeError(f"HiGHS did not solve the selection of layers: {found.message}")
    chosen: np.ndarray = found.x[mask] > 0.5
    return chosen
