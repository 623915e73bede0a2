"""What a site lets a server do: its ``policy.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedfm.clients.settings import LocalSettings
from fedfm.recipe import Recipe
from fedfm.settings import Settings

Limit = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Objection:
    """Something that a policy does not allow.

    Attributes:
        key: of the policy; the only part that a server gets.
        text: what the policy says, and what is asked instead; for the site's own log.
    """

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


class Policy(Settings):
    """A site's ``policy.yaml``.

    What it does not mention is allowed, but for fetching models from a hub, and for sizes and times far above those of
    common models.
    """

    algorithms: list[str] | None = None
    """Names of the algorithms that may be run; null: any."""
    tunables: list[str] | None = None
    """Kinds of what may be trained, as the recipe's `tune.kind`; null: any."""
    models: list[Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]] | None = None
    """Digests, or their first 12 letters or more, of the models that may be used, and no proxies; null: any."""
    privacy: Literal["none", "central", "local"] = "none"
    """The least that a run must promise, as the recipe's `privacy.kind`: with `central`, `local` will do too."""
    min_clients: Limit = 1
    """Clients that the server must declare for every round, at least, this site included."""
    max_rounds: Limit | None = None
    """Rounds of a run that the site takes part in, at most; null: any."""
    max_bytes: Limit | None = None
    """Bytes of one update, at most; null: any."""
    max_steps: Limit = 100_000
    """Optimiser steps of one round, at most, at this site."""
    max_batch_size: Limit = 4096
    """Examples of one step, at most, at this site."""
    max_length: Limit = 32_768
    """Tokens of one example, at most."""
    max_rank: Limit = 1024
    """Rank of low-rank factors (`tune.r`), at most."""
    max_virtual_tokens: Limit = 1024
    """Virtual tokens of a prompt or prefix (`tune.num_virtual_tokens`), at most."""
    max_layers: Limit = 1000
    """Layers, and experts of a layer, that a model's config may name, at most."""
    max_image_size: Limit = 4096
    """Pixels of an image's side in the config of a model or of an image processor, at most."""
    max_parameters: Limit = 100_000_000_000
    """Parameters of a model, at most."""
    max_download_bytes: Limit = 100_000_000_000
    """Bytes of a proxy's files, at most."""
    max_prepare_seconds: Seconds = 3600.0
    """Seconds that preparing a run may take: reading data, loading the model."""
    max_round_seconds: Seconds = 86_400.0
    """Seconds that training of one round may take."""
    allow_network: bool = False
    """Whether a recipe's model may be fetched from a hub."""

    def objections(self, recipe: Recipe) -> list[Objection]:
        """What of a recipe is outside this policy."""
        found = []
        if self.algorithms is not None and recipe.algorithm.name not in self.algorithms:
            found.append(Objection("algorithms", f"{', '.join(self.algorithms)}, not {recipe.algorithm.name}"))
        if self.tunables is not None and recipe.tune.kind not in self.tunables:
            found.append(Objection("tunables", f"{', '.join(self.tunables)}, not {recipe.tune.kind}"))
        if _strength(recipe.privacy.kind) < _strength(self.privacy):
            found.append(Objection("privacy", f"{self.privacy} at least, not {recipe.privacy.kind}"))
        if (declared := _clients_of_a_round(recipe)) < self.min_clients:
            found.append(Objection("min_clients", f"{self.min_clients} of a round at least, not {declared}"))
        return [
            *found,
            *self.over("max_rounds", recipe.federation.rounds),
            *self.over("max_length", recipe.data.max_length),
            *self.over("max_rank", getattr(recipe.tune, "r", 0)),
            *self.over("max_virtual_tokens", recipe.tune.virtual_tokens),
        ]

    def objections_to_training(self, local: LocalSettings, examples: int) -> list[Objection]:
        """What is outside this policy of local training with as many examples as the site has."""
        return [
            *self.over("max_batch_size", min(local.batch_size, examples)),
            *self.over("max_steps", local.steps(examples)),
        ]

    def objections_to_model(self, digest: str | None) -> list[Objection]:
        """Why a model, by its weights' digest, or a proxy (None), may not be used."""
        if self.models is None or (digest is not None and any(digest.startswith(known) for known in self.models)):
            return []
        return [Objection("models", "a proxy is none of them" if digest is None else f"none of them is {digest[:12]}…")]

    def over(self, key: str, asked: int) -> list[Objection]:
        """The objection to a number above the limit of this name; none where it is not above."""
        limit = getattr(self, key)
        return [] if limit is None or asked <= limit else [Objection(key, f"{_number(limit)}, not {_number(asked)}")]


def _clients_of_a_round(recipe: Recipe) -> int:
    """Clients of a round, as the server declares them; under Poisson sampling only those it waits for are certain."""
    federation = recipe.federation
    declared = federation.clients or 1
    cohort = 1 if federation.sampling == "poisson" else federation.cohort_size(declared)
    return min(declared, max(cohort, federation.min_clients or 1))


def _number(value: int) -> str:
    """A number for a log; a server may send one of any length."""
    return f"{value:,}" if value < 10**15 else "1e15 or more"


def _strength(kind: str) -> int:
    return {"none": 0, "central": 1, "local": 2}[kind]
