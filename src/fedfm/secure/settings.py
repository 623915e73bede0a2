"""The recipe's ``secure``: what the server sees of the clients' updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedfm import capabilities
from fedfm.secure.terms import Bits, Terms
from fedfm.settings import Settings


class SecureSettings(Settings):
    """Who may see the update of a single client."""

    kind: str

    works: ClassVar[tuple[str, ...]] = ()
    """Kinds of work that clients are asked for besides the protocol's."""
    extra: ClassVar[str | None] = None
    """The extra of fedfm that it needs."""
    statement: ClassVar[str | None] = None
    """What a run says of it: terminal, report and model card; None: nothing."""

    @property
    def sums_only(self) -> bool:
        """Whether the server learns the sum of a round's updates only."""
        return False

    @property
    def least(self) -> int:
        """The fewest clients whose updates it sums."""
        return 1

    @property
    def tries(self) -> int:
        """How often a round is tried."""
        return 1

    @property
    def most_examples(self) -> int:
        """The most examples that a client counts by."""
        return 1

    def terms(self, weight: float) -> Terms:
        """What all parties must agree on.

        Args:
            weight: the largest weight of a client.

        Raises:
            ValueError: it sums nothing.
        """
        raise ValueError(f"`secure.kind: {self.kind}` has no terms")


class NoSecure(SecureSettings):
    """The server sees the update of each client."""

    kind: Literal["none"] = "none"
    """The server sees the update of each client."""


class SecAgg(SecureSettings):
    """Secure aggregation: the server learns the sum of a round's updates and no single one (experimental)."""

    kind: Literal["secagg"] = "secagg"
    """The server learns the sum of a round's updates and no single one (Bonawitz et al., 2017; SecAgg+). Experimental,
    not reviewed."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """C: the largest magnitude of a value of an update; larger ones are clipped, and events.jsonl says how many."""
    bits: Bits = 32
    """Values travel as integers modulo 2 to the power of this: 32 or 64."""
    max_examples: Annotated[int, Field(ge=1, le=2**31)] = 10_000
    """With weights by examples, a client that has more examples counts as if it had this many. The quantisation step
    of a sum of N clients is C·N·max_examples / 2^(bits − 1); that of the mean is smaller by the sum of the weights."""
    threshold: Annotated[float, Field(ge=0.5, lt=1)] = 0.5
    """More than this share of a client's neighbours must help to remove its masks, and of all clients confirm who is in
    the sum. A higher share protects against more clients that collude with the server, and lets fewer drop out."""
    neighbors: Annotated[int, Field(ge=4, le=10_000, multiple_of=2)] | None = None
    """Clients with which each client shares masks; null: 2·⌈3.3·log₂ n⌉ of n clients, which are all of up to 37."""
    min_clients: Annotated[int, Field(ge=3, le=1_000_000)] = 5
    """The sum of fewer clients is never unmasked."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a round is tried, with fresh keys each time, before too many drop-outs end the run."""

    works: ClassVar[tuple[str, ...]] = (
        "advertise-keys",
        "share-secrets",
        "train-masked",
        "confirm-survivors",
        "unmask",
    )
    extra: ClassVar[str | None] = "secure"
    statement: ClassVar[str | None] = (
        "Secure aggregation: the server sees the sum of a round's updates and no single one (experimental, not "
        "reviewed by a cryptographer)."
    )
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.ROUND_SUM: "the server learns the sum of a round's updates only",
        capabilities.WEIGHTED_MEAN: "the server learns the sum of a round's updates only",
        capabilities.LINEAR_STAGES: "what clients send is summed before it is decoded",
        capabilities.WHOLE_VIEWS: "all clients of a round mask the same coordinates",
        capabilities.FIXED_COHORT: "the number of clients decides how finely values are quantised",
        capabilities.SIMULATED_CLIENTS: "a site continues from what the server names, and keys must not be used twice",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.INDIVIDUAL_UPDATES: "the server learns the sum of a round's updates only",
        capabilities.UPDATES_IN_CLEAR: "the server learns the sum of a round's updates only",
        capabilities.INDIVIDUAL_FIGURES: "the server learns nothing of a single client",
        capabilities.STATEFUL_CLIENTS: "a round that is tried again would change what clients keep twice",
    }

    @property
    def sums_only(self) -> bool:
        """True."""
        return True

    @property
    def least(self) -> int:
        """`min_clients`."""
        return self.min_clients

    @property
    def tries(self) -> int:
        """`attempts`."""
        return self.attempts

    @property
    def most_examples(self) -> int:
        """`max_examples`."""
        return self.max_examples

    def terms(self, weight: float) -> Terms:
        """Its terms."""
        return Terms(self.threshold, self.neighbors, self.min_clients, self.clip, weight, self.bits)


Secure = Annotated[NoSecure | SecAgg, Field(discriminator="kind")]
