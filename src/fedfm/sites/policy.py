"""What a site lets a server do: its ``policy.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.recipe import Recipe
from fedfm.settings import Settings


class Policy(Settings):
    """A site's ``policy.yaml``. What it does not mention is allowed, but for fetching models from a hub."""

    algorithms: list[str] | None = None
    """Names of the algorithms that may be run; null: any."""
    tunables: list[str] | None = None
    """Kinds of what may be trained, as the recipe's `tune.kind`; null: any."""
    models: list[Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]] | None = None
    """Digests, or their first 12 letters or more, of the models that may be used, and no proxies; null: any."""
    privacy: Literal["none", "central", "local"] = "none"
    """The least that a run must promise, as the recipe's `privacy.kind`: with `central`, `local` will do too."""
    max_rounds: Annotated[int, Field(ge=1)] | None = None
    """Rounds of a run that the site takes part in, at most."""
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    """Bytes of one update, at most."""
    allow_network: bool = False
    """Whether a recipe's model may be fetched from a hub."""

    def objections(self, recipe: Recipe) -> list[str]:
        """What of a recipe is outside this policy; each names the policy's key."""
        found = []
        if self.algorithms is not None and recipe.algorithm.name not in self.algorithms:
            found.append(f"algorithms: {', '.join(self.algorithms)}, not {recipe.algorithm.name}")
        if self.tunables is not None and recipe.tune.kind not in self.tunables:
            found.append(f"tunables: {', '.join(self.tunables)}, not {recipe.tune.kind}")
        if _strength(recipe.privacy.kind) < _strength(self.privacy):
            found.append(f"privacy: {self.privacy} at least, not {recipe.privacy.kind}")
        if self.max_rounds is not None and recipe.federation.rounds > self.max_rounds:
            found.append(f"max_rounds: {self.max_rounds}, not {recipe.federation.rounds}")
        return found

    def objection_to_model(self, digest: str | None) -> str | None:
        """Why a model, or a proxy (None), may not be used; None: it may."""
        if self.models is not None and digest is None:
            return "models: a proxy is none of them"
        if digest is None or self.models is None or any(digest.startswith(known) for known in self.models):
            return None
        return f"models: none of them is {digest[:12]}…"

    def objection_to_size(self, size: int) -> str | None:
        """Why an update of so many bytes may not leave; None: it may."""
        if self.max_bytes is None or size <= self.max_bytes:
            return None
        return f"max_bytes: {self.max_bytes:,}, not {size:,}"


def _strength(kind: str) -> int:
    return {"none": 0, "central": 1, "local": 2}[kind]
