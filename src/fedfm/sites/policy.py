"""What a site allows a server to ask: its ``policy.yaml``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedfm.clients.retrieval.settings import Disclosure
from fedfm.clients.settings import LocalSettings
from fedfm.printable import line
from fedfm.recipe import Recipe
from fedfm.settings import Settings

TRAIN = "train"
"""The kind of work that every run has, and that a policy allows unless it says otherwise."""

Limit = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Objection:
    """One thing that a policy does not allow.

    Attributes:
        key: of the policy; the server gets this part only.
        text: what the policy says, and what the server asks for instead; for the site's own log.
    """

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


class Policy(Settings):
    """A site's ``policy.yaml``.

    A key that it leaves out has its default: no kind of work but training, no models from a hub, and limits of size and
    time far above common models. Everything else is allowed.
    """

    works: list[str] = [TRAIN]
    """Kinds of work that the site does. The result of any other kind does not leave the site."""
    algorithms: list[str] | None = None
    """Names of the algorithms that may be run, as the recipe's `algorithm.name`; null: any."""
    tunables: list[str] | None = None
    """Kinds of tunable that may be trained, as the recipe's `tune.kind`; null: any."""
    protocols: list[str] | None = None
    """Kinds of protocol that the site takes part in, as the recipe's `protocol.kind`; null: any."""
    stages: list[str] | None = None
    """Kinds of stage that may change an update on its way, as in the recipe's `updates`; null: any."""
    models: list[Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]] | None = None
    """Digests of the models that may be used, or their first 12 letters or more; excludes proxies. null: any."""
    privacy: Literal["none", "central", "local"] = "none"
    """The least privacy that a run must promise, as the recipe's `privacy.kind`; `local` is more than `central`."""
    label_epsilon: Annotated[float, Field(gt=0, le=20)] | None = None
    """ε of each example in the counts of classes that the site tells a server, under randomised response, drawn once;
    null: it tells none."""
    min_clients: Limit = 1
    """The least number of clients that the server must declare for every round, this site included."""
    max_rounds: Limit | None = None
    """The largest number of rounds of a run that the site takes part in; null: any."""
    max_bytes: Limit | None = None
    """The largest size of one update, in bytes; null: any."""
    max_steps: Limit = 100_000
    """The largest number of optimiser steps in one round at this site."""
    max_batch_size: Limit = 4096
    """The largest number of examples in one step at this site."""
    max_length: Limit = 32_768
    """The largest number of tokens in one example."""
    max_rank: Limit = 1024
    """The largest rank of low-rank factors (`tune.r`)."""
    max_virtual_tokens: Limit = 1024
    """The largest number of virtual tokens of a prompt or prefix (`tune.num_virtual_tokens`)."""
    max_layers: Limit = 1000
    """The largest number of layers, and of experts in a layer, that a model's config may name."""
    max_image_size: Limit = 4096
    """The longest side of an image, in pixels, in the config of a model or an image processor."""
    max_parameters: Limit = 100_000_000_000
    """The largest number of parameters of a model."""
    max_download_bytes: Limit = 100_000_000_000
    """The largest size of a proxy's files, in bytes."""
    max_scores: Limit = 1
    """The largest number of scores of the site's texts in the answers to one question, further exchanges included,
    where `works` names `retrieve`; 1: only how well the site's best text fits."""
    max_snippets: Annotated[int, Field(ge=0)] = 0
    """The largest number of pieces of the site's texts in the answers to one question, further exchanges included; 0:
    no text leaves."""
    max_snippets_a_day: Annotated[int, Field(ge=0)] = 100
    """The largest number of pieces of text that leave in a day (UTC)."""
    max_questions_a_day: Limit = 1000
    """The largest number of questions that are answered in a day (UTC); each exchange counts those it answers."""
    readable_questions: bool = False
    """Whether questions must come as text (`ask.question`), which the site's `events.jsonl` records, not as
    embeddings."""
    max_prepare_seconds: Seconds = 3600.0
    """The longest time to prepare a run (read data, load the model), in seconds."""
    max_round_seconds: Seconds = 86_400.0
    """The longest time to train in one round, in seconds."""
    allow_network: bool = False
    """Whether a recipe's model may be fetched from a hub."""

    def objections(self, recipe: Recipe) -> list[Objection]:
        """What of a recipe this policy does not allow."""
        found = [
            *self.objections_to_work(recipe.works),
            *self._not_among("algorithms", [recipe.algorithm.name]),
            *self._not_among("tunables", [recipe.tune.kind]),
            *self._not_among("protocols", [recipe.protocol.kind]),
            *self._not_among("stages", list(dict.fromkeys(stage.kind for stage in recipe.updates))),
        ]
        if _strength(recipe.privacy.kind) < _strength(self.privacy):
            found.append(Objection("privacy", f"{self.privacy} at least, not {recipe.privacy.kind}"))
        if (declared := _clients_of_a_round(recipe)) < self.min_clients:
            found.append(Objection("min_clients", f"{self.min_clients} of a round at least, not {declared}"))
        if (told := recipe.ask.disclosure()) is not None:
            found += self.objections_to_answers(told)
        return [
            *found,
            *self.over("max_rounds", recipe.federation.rounds),
            *self.over("max_length", max(recipe.data.max_length, recipe.public_length)),
            *self.over("max_rank", getattr(recipe.tune, "r", 0)),
            *self.over("max_virtual_tokens", recipe.tune.virtual_tokens),
        ]

    def objections_to_work(self, kinds: Iterable[str]) -> list[Objection]:
        """The objection to kinds of work; empty where the policy names all of them."""
        return self._not_among("works", kinds)

    def objections_to_answers(self, told: Disclosure, questions: int = 0, snippets: int = 0) -> list[Objection]:
        """What of the answers of one exchange this policy does not allow.

        Args:
            told: what the answers tell.
            questions: that were answered before, on the same day.
            snippets: that left before, on the same day.
        """
        unreadable = self.readable_questions and not told.readable
        return [
            *self.over("max_scores", told.scores),
            *self.over("max_snippets", told.snippets),
            *self.over("max_snippets_a_day", snippets + told.texts),
            *self.over("max_questions_a_day", questions + told.questions),
            *([Objection("readable_questions", "text, not embeddings")] if unreadable else []),
        ]

    def objections_to_training(self, local: LocalSettings, examples: int) -> list[Objection]:
        """What of local training on so many examples this policy does not allow."""
        return [
            *self.over("max_batch_size", min(local.batch_size, examples)),
            *self.over("max_steps", local.steps(examples)),
        ]

    def objections_to_model(self, digest: str | None) -> list[Objection]:
        """Why a model, by the digest of its weights, or a proxy (None) may not be used."""
        if self.models is None or (digest is not None and any(digest.startswith(known) for known in self.models)):
            return []
        return [Objection("models", "a proxy is none of them" if digest is None else f"none of them is {digest[:12]}…")]

    def over(self, key: str, asked: int) -> list[Objection]:
        """The objection to a number above the limit of this name; empty where it is not above."""
        limit = getattr(self, key)
        return [] if limit is None or asked <= limit else [Objection(key, f"{_number(limit)}, not {_number(asked)}")]

    def _not_among(self, key: str, asked: Iterable[str]) -> list[Objection]:
        """The objection to names that a list does not have; empty where it has all, or allows any."""
        allowed: list[str] | None = getattr(self, key)
        if allowed is None or not (others := [name for name in asked if name not in allowed]):
            return []
        return [Objection(key, f"{', '.join(allowed) or 'none'}, not {line(', '.join(others))}")]


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
