"""Who the clients are, how data is split among them, and who takes part in a round."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from fedfm.client_patterns import first_match
from fedfm.clients.attackers import AnyAttack
from fedfm.data.partitions import Partition
from fedfm.data.streams import AnyStream
from fedfm.errors import RecipeError
from fedfm.privacy.attendance import Attendance
from fedfm.recipe.client_groups import Device, OtherModel, refuse_bad_shares
from fedfm.settings import Settings
from fedfm.views.modalities import Kind

DEFAULT_CLIENTS = 10
"""Clients of a synthetic federation, and clients a round, where the recipe does not say."""

MOST_CLIENTS = 10_000_000
"""More would not fit the lists that name them."""


Rank = Annotated[int, Field(ge=1, le=100_000)]
Ranks = list[Rank] | dict[str, Rank]
Budget = Annotated[float, Field(gt=0, le=1)]
Budgets = list[Budget] | dict[str, Budget]


def _count_or_fraction(value: Any) -> int | float:
    """Accepts a whole number from 1 to ten millions, or a number between 0 and 1."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_CLIENTS:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise ValueError("must be a count (a whole number from 1 to 10,000,000) or a fraction (between 0 and 1)")


def _in_order(window: list[int | None]) -> list[int | None]:
    """Refuses a window that ends before it begins."""
    first, last = window
    if first is not None and last is not None and last < first:
        raise ValueError(f"the last round ({last}) is before the first ({first})")
    return window


_Round = Annotated[int, Field(ge=1, le=1_000_000)]
Window = Annotated[list[_Round | None], Field(min_length=2, max_length=2), AfterValidator(_in_order)]
"""First and last round in which a client is there; None: from the first, to the last of the run."""


class FederationSettings(Settings):
    """The recipe's ``federation``."""

    clients: Annotated[int, Field(ge=1, le=MOST_CLIENTS)] | None = None
    """Number of clients; null: 10, or all that a natural federation (`data.client`) has; fewer are drawn from all."""
    per_round: Annotated[int | float, BeforeValidator(_count_or_fraction)] | None = None
    """Clients a round: a count, or a fraction below 1; null: 10, or all where there are fewer."""
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """Rounds."""
    sampling: Literal["uniform", "poisson", "weighted", "cyclic"] = "uniform"
    """Who takes part: `uniform` all alike, `poisson` each by an independent draw, `weighted` by number of examples,
    `cyclic` one after the other in an order that is drawn once."""
    partition: Partition | None = None
    """How examples are split among clients; null: `column` where `data.client` is set, else `iid`."""
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a round's clients that must send a sound update."""
    min_clients: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Clients that must send a sound update in every round, at least, besides `quorum`; null: any number."""
    min_examples: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1
    """Clients of a natural federation that have fewer examples are left out."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each client's examples kept from training, to evaluate each client on them."""
    unseen: Annotated[int, Field(ge=0, le=MOST_CLIENTS)] = 0
    """Simulated clients beside `clients` that never train. The delivered model is evaluated on all of their examples,
    to tell how it serves clients that come later; of a natural federation they are drawn from all clients."""
    label_groups: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Groups of simulated clients that name the classes differently, for experiments with clients that disagree: class
    y of a client in group g becomes (y + g) mod C, also in what it holds out. 1: all agree."""
    ranks: Ranks | None = None
    """LoRA ranks of clients, at most `tune.r`: a list such as `[4, 8, 16]`, from which each client's is drawn, or a
    rank for each pattern of client ids, such as `{hospital-*: 4}`, where the first match counts; null, or no match:
    `tune.r`. A client gets the leading ranks; the scale α/r stays that of `tune.r`."""
    budgets: Budgets | None = None
    """Shares of the neurons and attention heads that clients hold, with `tune.kind: full`: a list such as
    `[0.25, 0.5, 1.0]`, from which each client's is drawn, or a share for each pattern of client ids, such as
    `{phone-*: 0.25}`, where the first match counts; null, or no match: everything."""
    stream: AnyStream | None = None
    """Tasks or time slices that come one after the other, and what clients keep of them; null: clients train on all of
    their examples in every round."""
    modalities: Annotated[list[Kind], Field(min_length=1)] | dict[str, Kind] | None = None
    """What clients of `task.kind: image-text` have: a list such as `[both, image, text]`, from which each client's is
    drawn, or one for each pattern of client ids, such as `{camera-*: image}`, where the first match counts; null, or no
    match: `both`. Who has one kind trains its tower alone."""
    models: list[OtherModel] = []
    """Backbones of clients that do not have `model`; each client gets the first that names it."""
    devices: list[Device] = []
    """Speeds of the devices of simulated clients, for the virtual clock of an asynchronous protocol."""
    attackers: AnyAttack | None = None
    """What some of the simulated clients do to harm the run, to measure what a rule withstands; null: all are honest.
    A run with real sites refuses it."""

    presence: dict[str, Window] = {}
    """Rounds in which simulated clients are there: pattern of client ids → `[first, last]`, such as
    `{phone-*: [1, 10], late-*: [11, null]}`, with null for the first or the last of the run. The first match counts,
    and a client that matches none is there in all rounds. Only clients that are there are drawn."""
    without: list[str] = []
    """Ids of simulated clients that are left out: they are drawn as ever, but not asked, and none of their examples is
    used. `fedfm forget` sets it."""

    @field_validator("ranks")
    @classmethod
    def _ranks_are_named(cls, ranks: Ranks | None) -> Ranks | None:
        if ranks is not None and not ranks:
            raise ValueError("must name at least one rank, or be null")
        return ranks

    @field_validator("budgets")
    @classmethod
    def _budgets_are_named(cls, budgets: Budgets | None) -> Budgets | None:
        if budgets is not None and not budgets:
            raise ValueError("must name at least one share, or be null")
        return budgets

    @field_validator("models")
    @classmethod
    def _models_fit(cls, models: list[OtherModel]) -> list[OtherModel]:
        refuse_bad_shares([model.clients for model in models if isinstance(model.clients, float)], whole=False)
        return models

    @field_validator("devices")
    @classmethod
    def _devices_fit(cls, devices: list[Device]) -> list[Device]:
        names = [device.name for device in devices]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"`{repeated}` is given twice; names of devices must differ")
        if devices:
            refuse_bad_shares([device.share for device in devices], whole=True)
        return devices

    def cohort_size(self, clients: int) -> int:
        """Clients a round when ``clients`` are there; a fraction is rounded, and never to none."""
        if self.per_round is None:
            return min(DEFAULT_CLIENTS, clients)
        if isinstance(self.per_round, int):
            return self.per_round
        return max(1, round(self.per_round * clients))

    def check_cohort(self, clients: int) -> int:
        """Clients a round, when ``clients`` are there.

        Raises:
            RecipeError: they are more than are there, or fewer than ``min_clients``.
        """
        size = self.cohort_size(clients)
        if size > clients:
            raise RecipeError(
                f"{size} clients a round are more than the {clients} there are", where="federation.per_round"
            )
        most = clients if self.sampling == "poisson" else size
        if self.min_clients is not None and self.min_clients > most:
            reason = f"no round has {self.min_clients} clients: {most} take part in one"
            raise RecipeError(reason, where="federation.min_clients")
        return size

    def is_there(self, client: str, round: int) -> bool:  # noqa: A002 - the field's word
        """Whether a client is there in a 1-based round, by `presence`."""
        first, last = first_match(self.presence, client, [None, None])
        return (first is None or first <= round) and (last is None or round <= last)

    def turning_points(self) -> list[int]:
        """The rounds of the run in which `presence` lets clients come, or has lost some since the round before."""
        found = {1, *(first for first, _ in self.presence.values() if first is not None)}
        found |= {last + 1 for _, last in self.presence.values() if last is not None}
        return sorted(number for number in found if number <= self.rounds)

    def attendance(self, clients: int) -> Attendance:
        """How often clients take part when ``clients`` are there."""
        cohort = self.expected_cohort(clients) if self.sampling == "poisson" else self.cohort_size(clients)
        return Attendance(clients, cohort, self.sampling, self.rounds)

    def expected_cohort(self, clients: int) -> float:
        """Mean cohort under Poisson sampling, where a fraction is the rate at which each client takes part."""
        return self.per_round * clients if isinstance(self.per_round, float) else self.cohort_size(clients)
