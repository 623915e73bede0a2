"""What an aggregation rule is: it folds a round's updates into one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from torch import Tensor

from fedfm.capabilities import INDIVIDUAL_UPDATES, LASTING_COORDINATES
from fedfm.params import Params
from fedfm.settings import Capabilities, Settings
from fedfm.spec import Spec
from fedfm.views.base import Slices


@dataclass(frozen=True)
class Contribution:
    """What a rule may weigh an update by.

    Attributes:
        client: client id.
        examples: its training examples, n_c.
        steps: local steps that it took.
        copies: how often it was drawn into the cohort (above 1 only under weighted sampling).
        staleness: server steps since the parameters that it started from; 0 in a synchronous round.
        loss: its mean training loss over these steps, as it reports it; None where it predicted nothing.
    """

    client: str
    examples: int
    steps: int
    copies: int = 1
    staleness: int = 0
    loss: float | None = None


class Memory(Protocol):
    """What a rule keeps from round to round, on the server's disk; a round that is not committed keeps nothing."""

    def kept(self, key: str) -> Params | None:
        """What `keep` stored under a key in the last committed round that did; None before."""
        ...

    def keep(self, key: str, params: Params) -> None:
        """Stores tensors with this round."""
        ...


class Fold(ABC):
    """Takes a round's updates in a fixed order; the order fixes the result to the bit."""

    @abstractmethod
    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Folds in one update.

        Args:
            update: the part w_c − w_t that the client holds.
            contribution: who sent it, and what it did.
            slices: the part of each tensor that ``update`` covers.
        """

    @abstractmethod
    def result(self) -> Params:
        """The aggregate Δ in the update's dtype, zero where no client holds a coordinate; it ends the fold.

        Raises:
            ValueError: nothing was folded in.
        """

    def recall(self, memory: Memory) -> None:
        """Gets what the rule keeps from round to round, before the first `add`; only where `Rule.remembers`."""
        raise NotImplementedError

    def refer(self, reference: Mapping[str, Tensor]) -> None:
        """Gets the server's own update, after the last `add`; only where `Rule.trains_root`.

        Args:
            reference: whole tensors, trained from the parameters of the round.
        """
        raise NotImplementedError

    def replaced(self) -> frozenset[str]:
        """Names of tensors in which `result` decides every coordinate, also those that no client holds.

        Read after `result`. Elsewhere the server keeps its value at a coordinate that no client holds.
        """
        return frozenset()

    def residual(self, after: Mapping[str, Tensor]) -> Params:
        """What the clients' updates come to beyond the new tunable, to be added to the frozen weights of the model.

        Args:
            after: w_{t+1}, the tunable after the server's step.

        Returns:
            Pairs of factors by the names of the tunable's factors, A ``[k, in]`` and B ``[out, k]``, of any rank k, in
            units of the product B·A: whoever adds them multiplies by the pair's scale α/r, as the layer does. Empty
            where nothing is left. Read after `result`.
        """
        return {}

    def weigh(self, contribution: Contribution) -> float | None:
        """Weight of a client as `Rule.weight`, where what the rule remembers decides it; None elsewhere."""
        return None

    def figures(self) -> Mapping[str, float]:
        """Figures of the round for metrics.jsonl, by name; read after `result`."""
        return {}

    def notes(self) -> Mapping[str, str]:
        """Client id → why `result` leaves its update out; read after `result`, and written to the run's events."""
        return {}


class Rule(Settings):
    """How a round's updates become one. Every coordinate is combined over those clients that hold it."""

    rule: str

    gathers: ClassVar[bool] = False
    """Whether it needs all updates at once; they then wait on disk and are read tensor by tensor."""
    remembers: ClassVar[bool] = False
    """Whether its folds keep tensors from round to round (`Fold.recall`)."""
    trains_root: ClassVar[bool] = False
    """Whether the server trains on ``data.root`` in each round, and its folds get that update (`Fold.refer`)."""
    period: ClassVar[int] = 1
    """Rounds after which what `trains` returns repeats."""

    def capabilities(self) -> Capabilities:
        """Also what it relies on where it gathers."""
        needs = dict(self.needs)
        if self.gathers:
            needs |= {INDIVIDUAL_UPDATES: "it compares the updates of a round with each other"}
        if self.remembers:
            needs |= {LASTING_COORDINATES: "it keeps tensors from round to round"}
        return Capabilities(needs, self.gives, self.takes)

    @property
    def least(self) -> int:
        """The fewest updates that it can combine; one that was drawn twice counts twice.

        A recipe whose rounds cannot have as many is refused. A round with fewer sound updates ends the run as one below
        the quorum does. So a client whose update is refused can end the run where a cohort has no more than these.
        """
        return 1

    @property
    def most(self) -> int | None:
        """The most updates that it can combine; None: any number. A recipe whose rounds may have more is refused."""
        return None

    @property
    def of_figures(self) -> Rule:
        """The rule that combines what the algorithm measures of each update."""
        return self

    def under(self, sampling: str) -> Self:
        """The rule with what ``federation.sampling`` decides filled in."""
        return self

    def in_round(self, number: int) -> Self:
        """The rule with what the 1-based round decides filled in."""
        return self

    def weight(self, contribution: Contribution) -> float:
        """Weight of a client in the mean of the clients' products B·A, with which the result is compared."""
        return float(contribution.copies * contribution.examples)

    @property
    def schedules(self) -> bool:
        """Whether clients train only some of the tensors."""
        kind = type(self)
        return kind.trains is not Rule.trains or kind.fixed is not Rule.fixed

    def trains(self, spec: Spec, number: int) -> frozenset[str]:
        """Names of the tensors that clients train and return in a round; they get the current values of the others.

        Args:
            spec: of the whole tunable.
            number: 1-based round.
        """
        return frozenset(spec)

    def fixed(self, spec: Spec) -> frozenset[str]:
        """Names of tensors that keep their initial values in the whole run; no round trains them.

        Server and clients make these values themselves, so that they are never sent. A client with a proxy gets them in
        each message, since its initial values may differ.
        """
        return frozenset()

    def initial(self, params: Params, seed: int) -> Params:
        """The tunable before round 1, made from what was drawn; the same at the server and at each client.

        Args:
            params: as the tunable draws it.
            seed: the run's seed.
        """
        return params

    @property
    def merges(self) -> bool:
        """Whether its folds have a `Fold.residual`."""
        return False

    @property
    def adapter_rank(self) -> int:
        """The largest rank of ``adapter/`` with all residuals in it."""
        return 0

    def residual_rank(self, rank: int, updates: int) -> int:
        """The largest rank of the residual of a round.

        Args:
            rank: of the tunable's factors.
            updates: that a round folds.
        """
        return 0

    def begin(self, spec: Spec, params: Mapping[str, Tensor], *, seed: int, round: int) -> Fold:  # noqa: A002
        """The fold of a round; a rule that draws something overrides this, with (seed, round) as the key.

        Args:
            spec: as for `start`.
            params: as for `start`.
            seed: the run's.
            round: 1-based round.
        """
        return self.start(spec, params)

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> Fold:
        """An empty fold of updates to tensors with ``spec``.

        Args:
            spec: of the whole tensors.
            params: w_t, the values that the updates start from. Rules that act on what clients hold after training,
                such as those on LoRA's factors, need them; others ignore them.
        """
        raise NotImplementedError
