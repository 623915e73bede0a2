"""Clients of one kind of a pair: who has only images holds the image tower, who has only texts the text tower.

As in CreamFL (Yu et al., arXiv:2302.08888), a federation has clients with both kinds and clients with one. Here they
share weights: a client returns the tensors of the towers that it trains, and the mean of a tensor is over the clients
that hold it. What belongs to neither tower, such as the temperature, every client gets, and clients with both train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from fedfm.client_patterns import first_match
from fedfm.randomness import numpy_generator
from fedfm.spec import Spec
from fedfm.views.base import Slices, View, whole

Kind = Literal["both", "image", "text"]

TOWERS: dict[str, tuple[str, ...]] = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}
"""Kind of a client → what is in the names of the tensors that it trains, in transformers' models of two towers."""


@dataclass(frozen=True)
class Modalities(View):
    """Which kinds each client has.

    Attributes:
        kinds: dealt to clients at random, each alike; or pattern of client ids → kind, the first that matches counts
            and a client that matches none has both.
        seed: the run's seed.
    """

    kinds: tuple[Kind, ...] | Mapping[str, Kind]
    seed: int = 0

    @classmethod
    def of(cls, recipe: Any) -> Self | None:
        """The recipe's `federation.modalities`."""
        kinds = recipe.federation.modalities
        if not kinds:
            return None
        return cls(dict(kinds) if isinstance(kinds, Mapping) else tuple(kinds), recipe.seed)

    def kind(self, client: str) -> Kind:
        """What a client has."""
        if isinstance(self.kinds, Mapping):
            return first_match(self.kinds, client, "both")
        return self.kinds[int(numpy_generator(self.seed, "modality", client=client).integers(len(self.kinds)))]

    def gets(self, spec: Spec, client: str, number: int) -> Slices:
        """What a client trains, and what belongs to neither tower."""
        towers = [part for parts in TOWERS.values() for part in parts]
        shared = {name: () for name in spec if not any(part in name for part in towers)}
        return {**self.held(spec, client, number), **shared}

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """The tensors of a client's towers, whole."""
        kind = self.kind(client)
        if kind == "both":
            return whole(spec)
        return {name: () for name in spec if any(part in name for part in TOWERS[kind])}
