"""Coordinate ascent on P1 from structured starts, then moves of one layer for all clients. Not exact.

Given the others, layer l changes the objective by

    gain_i(l) = s_i(l) − λ·(N − 1 − 2·c_{−i}(l)),

so a client's best answer is the feasible set of largest positive gains, and rounds of best answers rise until they
stop. One start finds poor optima, since agreement has many; so there are several:

1. each client's own best layers; 2. the same while λ grows from 0; 3. the first k layers of the clients' summed order,
for every k; 4. one layer for all, for every layer; 5. nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedfm.views.selection.problem import SelectionProblem

_PATH = (0.125, 0.25, 0.5, 0.75)
"""Parts of λ on the way from 0."""

_LEAST = 1e-12
"""A smaller improvement is rounding."""


def ascend(problem: SelectionProblem) -> np.ndarray:
    """Masks with a high objective, bool ``[N, L]``; the same ones for the same problem."""
    tried: set[bytes] = set()
    best = np.zeros(problem.scores.shape, bool)
    for start in _starts(problem):
        best = _better(problem, best, start, tried)
    while True:
        found = best
        for move in _moves(problem, best):
            found = _better(problem, found, move, tried)
        if problem.value(found) <= problem.value(best) + _LEAST:
            return best
        best = found


def _better(problem: SelectionProblem, best: np.ndarray, start: np.ndarray, tried: set[bytes]) -> np.ndarray:
    """The masks that a start climbs to, if they are better; what was tried before is not tried again."""
    if (key := start.tobytes()) in tried:
        return best
    tried.add(key)
    masks = _climb(problem, start)
    return masks if problem.value(masks) > problem.value(best) + _LEAST else best


def _starts(problem: SelectionProblem) -> Iterator[np.ndarray]:
    scores, costs, budgets = problem.scores, problem.costs, problem.budgets
    own = np.stack([costs.best(row, budget) for row, budget in zip(scores, budgets, strict=True)])
    yield own
    masks = own
    for part in _PATH:
        masks = _climb(SelectionProblem(scores, part * problem.lam, costs, budgets), masks)
    yield masks
    order: list[int] = np.argsort(-scores.sum(0), kind="stable").tolist()
    for count in range(1, len(order) + 1):
        yield np.stack([costs.filled(order[:count], budget) for budget in budgets])
    for layer in range(len(order)):
        yield np.stack([costs.filled([layer], budget) for budget in budgets])
    yield np.zeros(scores.shape, bool)


def _climb(problem: SelectionProblem, masks: np.ndarray, *, barred: int | None = None) -> np.ndarray:
    """Best answers of one client after the other until none changes.

    Args:
        problem: P1.
        masks: the start, feasible.
        barred: a layer that no client may choose.
    """
    masks, counts = masks.copy(), masks.sum(0)
    clients, scores, lam = len(masks), problem.scores, problem.lam
    changed = True
    while changed:
        changed = False
        for client in range(clients):
            gains = scores[client] - lam * (clients - 1 - 2 * (counts - masks[client]))
            if barred is not None:
                gains[barred] = -np.inf
            answer = problem.costs.best(gains, problem.budgets[client])
            if gains[answer].sum() > gains[masks[client]].sum() + _LEAST:
                counts += answer.astype(int) - masks[client]
                masks[client], changed = answer, True
    return masks


def _moves(problem: SelectionProblem, masks: np.ndarray) -> Iterator[np.ndarray]:
    """One layer given to all clients, then taken from all, for every layer."""
    for layer in range(masks.shape[1]):
        yield _given(problem, masks, layer)
        without = masks.copy()
        without[:, layer] = False
        yield without
        yield _climb(problem, without, barred=layer)


def _given(problem: SelectionProblem, masks: np.ndarray, layer: int) -> np.ndarray:
    """The masks with one layer in each, in place of layers of low scores where the budget asks for it."""
    given = []
    for client, mask in enumerate(masks):
        counts = masks.sum(0) - mask
        gains = problem.scores[client] - problem.lam * (len(masks) - 1 - 2 * counts)
        order = [layer, *(int(other) for other in np.argsort(-gains, kind="stable") if mask[other])]
        given.append(problem.costs.filled(order, problem.budgets[client]))
    return np.stack(given)
