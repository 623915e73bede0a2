"""Clients with different backbones on one machine: a worker for each backbone, of which one at a time is in memory.

The recipe's `model` is always there, since the server evaluates it. Of the backbones of `federation.models`, the one
that was used last is kept; another one is loaded when its clients' turn comes. Loading is a function of the recipe, so
which process loads a backbone, and when, does not change the result.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedfm.clients import Profile, Worker
from fedfm.errors import Problem, RecipeError
from fedfm.models.identity import ModelIdentity
from fedfm.recipe import Recipe
from fedfm.recipe.client_groups import models_of
from fedfm.updates import Reply, Request


def backbone_places(recipe: Recipe, clients: Sequence[str]) -> dict[str, int]:
    """Client → place of its backbone in `federation.models`, without the clients that have the recipe's `model`.

    Raises:
        RecipeError: at ``federation.models``: it names more clients than there are, or a pattern matches no client.
    """
    models = recipe.federation.models
    try:
        found = models_of(models, clients, recipe.seed)
    except ValueError as error:
        raise RecipeError(str(error), where="federation.models") from error
    places = {client: next(i for i, each in enumerate(models) if each is model) for client, model in found.items()}
    for place, model in enumerate(models):
        if place not in places.values():
            where = f"federation.models[{place}].clients"
            raise RecipeError(f"`{model.clients}` is none of the {len(clients)} clients", where=where)
    return places


@dataclass(frozen=True)
class Loaded:
    """A worker on one of `federation.models`, and the identity of that backbone."""

    worker: Worker
    identity: ModelIdentity


@dataclass(frozen=True)
class ModelWorkers:
    """Workers on several backbones, which take turns.

    Attributes:
        own: on the recipe's `model`.
        places: client → place in `federation.models`; clients with the recipe's `model` are not in it.
        load: makes the worker of a place.
        profile: gets the time that training takes.
    """

    own: Worker
    places: Mapping[str, int]
    load: Callable[[int], Loaded]
    profile: Profile | None = None
    _kept: dict[int, Loaded] = field(default_factory=dict)

    def with_profile(self, profile: Profile) -> ModelWorkers:
        """As `Workers.with_profile`."""
        return replace(self, own=self.own.with_profile(profile), profile=profile)

    def with_references(self) -> ModelWorkers:
        """As `Workers.with_references`; the workers of `federation.models` are loaded with them."""
        return replace(self, own=self.own.with_references())

    def passes(self, requests: Iterable[Request]) -> list[list[Request]]:
        """As `Workers.passes`: clients with one backbone follow each other."""
        groups: dict[int, list[Request]] = {}
        for request in requests:
            groups.setdefault(self.places.get(request.client, -1), []).append(request)
        return [together for place in sorted(groups) for together in self.own.passes(groups[place])]

    def prepare(self, messages: Iterable[bytes]) -> None:
        """As `Workers.prepare`."""
        self.own.prepare(messages)

    def answer(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """As `Workers.answer`."""
        for together in self.passes(requests):
            yield from self._worker(together[0].client).answer(together)

    def at(self, place: int) -> Worker:
        """The worker on one of `federation.models`."""
        return self._loaded(place).worker

    def identities(self) -> dict[str, str]:
        """Digests of the other backbones, each of which is loaded for it.

        Raises:
            RecipeError: at ``federation.models[N]``: a backbone does not exist or does not fit.
        """
        found: dict[str, str] = {}
        for place in sorted(set(self.places.values())):
            named = self._loaded(place).identity.named
            found |= {f"federation.models[{place}].{part}": digest for part, digest in named.items()}
        return found

    def _worker(self, client: str) -> Worker:
        place = self.places.get(client)
        worker = self.own if place is None else self._loaded(place).worker
        return worker if self.profile is None else worker.with_profile(self.profile)

    def _loaded(self, place: int) -> Loaded:
        if place not in self._kept:
            self._kept.clear()
            gc.collect()  # a model has cycles, and its memory is needed for the next one
            try:
                self._kept[place] = self.load(place)
            except RecipeError as error:
                raise _at(error, f"federation.models[{place}]") from error
        return self._kept[place]


def _at(error: RecipeError, group: str) -> RecipeError:
    """The error with the keys of one of `federation.models`."""
    names = {"model.path": f"{group}.path", "model.revision": f"{group}.revision"}

    def where(key: str) -> str:
        return f"{group}.{key}" if key.startswith("tune.") else names.get(key, key or group)

    return RecipeError([Problem(where(p.where), p.message, p.got) for p in error.problems], source=error.source)
