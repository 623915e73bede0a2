"""How the training data is split among clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.partitions import Pool
from fedfm.data.settings import FILE
from fedfm.errors import RecipeError
from fedfm.randomness import numpy_generator
from fedfm.recipe import Recipe
from fedfm.recipe.federation import DEFAULT_CLIENTS
from fedfm.tasks import Task


@dataclass(frozen=True)
class ClientSplit:
    """Which client holds which training examples.

    Attributes:
        train: client id → indices of the training examples it learns from.
        holdout: client id → indices it keeps for its own evaluation; empty without ``federation.holdout``.
        left_out: natural clients that take no part: they have fewer than ``federation.min_examples`` examples.
        unseen: client id → all its examples, of clients that never train; see ``federation.unseen``.
    """

    train: dict[str, np.ndarray]
    holdout: dict[str, np.ndarray]
    left_out: tuple[str, ...]
    unseen: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Client id → training examples."""
        return {client: len(indices) for client, indices in self.train.items()}

    def label_counts(self, examples: Examples, labels: LabelMap | None, task: Task) -> dict[str, dict[str, int] | None]:
        """Client id → class → training examples; None where examples have no classes."""
        found: dict[str, dict[str, int] | None] = {}
        for client, indices in self.train.items():
            counts = None if labels is None else task.label_counts(examples, indices, labels.names)
            found[client] = (
                None if labels is None or counts is None else dict(zip(labels.names, counts.tolist(), strict=True))
            )
        return found

    def table(self, examples: Examples, labels: LabelMap | None, task: Task) -> list[dict[str, object]]:
        """One row for each client, for ``clients.json``: id, examples, examples by label, examples held out."""
        rows: list[dict[str, object]] = []
        for client, counts in self.label_counts(examples, labels, task).items():
            indices = self.train[client]
            held = len(self.holdout.get(client, ()))
            rows.append({"id": client, "examples": len(indices), "labels": counts, "holdout": held})
        return rows


def split_clients(recipe: Recipe, examples: Examples) -> ClientSplit:
    """Splits the training examples among clients as the recipe says; every random choice is keyed by the recipe's seed.

    Args:
        recipe: the run's recipe.
        examples: the training examples.

    Raises:
        RecipeError: the partition does not fit the data, or there are fewer natural clients than the recipe asks for.
    """
    settings = recipe.federation
    pool = Pool(len(examples), examples.labels, examples.clients, recipe.task.numbers(examples))
    generator = numpy_generator(recipe.seed, "partition")
    train = recipe.partition.split(pool, (settings.clients or DEFAULT_CLIENTS) + settings.unseen, generator)
    left_out: tuple[str, ...] = ()
    if recipe.partition.kind == "column":
        train, left_out = _choose_natural(recipe, train)
    drawn = numpy_generator(recipe.seed, "unseen clients").permutation(sorted(train))[: settings.unseen]
    unseen = {client: train.pop(client) for client in sorted(map(str, drawn))}
    holdout: dict[str, np.ndarray] = {}
    if settings.holdout:
        for client, indices in train.items():
            train[client], holdout[client] = hold_out(indices, recipe, client)
        holdout = {client: indices for client, indices in holdout.items() if len(indices)}
    return ClientSplit(train, holdout, left_out, unseen)


def hold_out(indices: np.ndarray, recipe: Recipe, client: str) -> tuple[np.ndarray, np.ndarray]:
    """A client's examples, split into those that it learns from, at least one, and those that it holds out."""
    shuffled = numpy_generator(recipe.seed, "holdout", client=client).permutation(indices)
    held = min(round(recipe.federation.holdout * len(indices)), len(indices) - 1)
    return np.sort(shuffled[held:]), np.sort(shuffled[:held])


def _choose_natural(recipe: Recipe, clients: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    settings = recipe.federation
    large = {client: indices for client, indices in clients.items() if len(indices) >= settings.min_examples}
    left_out = tuple(sorted(clients.keys() - large.keys()))
    wanted = (settings.clients or max(1, len(large) - settings.unseen)) + settings.unseen
    if wanted > len(large):
        by_file = recipe.data.client == FILE
        source = "the files of data.train are" if by_file else f"column `{recipe.data.client}` names"
        raise RecipeError(
            f"{source} {len(large)} clients with at least {settings.min_examples} examples "
            f"({len(left_out)} have fewer), not {wanted}",
            where="federation.clients",
        )
    chosen = numpy_generator(recipe.seed, "natural clients").permutation(sorted(large))[:wanted]
    return {client: large[client] for client in sorted(str(name) for name in chosen)}, left_out
