"""What a protocol is: who asks whom for what in a round. The driver around it records, commits and resumes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from typing import Protocol as Interface

from torch import Tensor

from fedfm.aggregation import Contribution, Rule
from fedfm.algorithms import Algorithm, ServerState
from fedfm.params import Params
from fedfm.settings import Settings
from fedfm.spec import Spec
from fedfm.updates import Done, UpdatePath
from fedfm.views import Slices


@dataclass(frozen=True)
class State:
    """What a protocol keeps between rounds: one tree of tensors and JSON, saved in every checkpoint.

    Attributes:
        round: rounds done.
        params: the tunable that the run delivers and evaluates.
        server: named groups of other tensors, such as the algorithm's.
        facts: everything else, as JSON.
    """

    round: int
    params: Params
    server: ServerState = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """What a client is asked; clients that share one object get the same bytes where they hold the same part.

    Attributes:
        round: 1-based round; key of the client's random choices.
        params: the tunable to start from, in full coordinates.
        extras: what the algorithm sends beside it, in full coordinates, by group.
        groups: groups that are sent as they are.
        work: the kind of work.
        learning_rate: of the local optimiser.
        expects: groups of the answer where they are not those of a training update.
        counted: whether the message and its answer cross a wire; False where only a simulation sends them.
    """

    round: int
    params: Params
    extras: Mapping[str, Params] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    work: str = "train"
    learning_rate: float = 0.0
    expects: Mapping[str, Spec] | None = None
    counted: bool = True


@dataclass(frozen=True)
class ClientUpdate:
    """A sound answer.

    Attributes:
        client: client id.
        groups: decoded tensors by group; of ``tunable``, the part that the client holds.
        facts: what the client says of its work.
        contribution: what a rule may weigh it by.
        slices: the part of the tunable that the client holds.
    """

    client: str
    groups: Mapping[str, Mapping[str, Tensor]]
    facts: Done
    contribution: Contribution
    slices: Slices


class IO(Interface):
    """What a protocol may use; the driver's side of it knows runtimes, ledgers and client state."""

    @property
    def algorithm(self) -> Algorithm:
        """The recipe's algorithm."""
        ...

    @property
    def rule(self) -> Rule:
        """The recipe's aggregation rule, with everything filled in."""
        ...

    @property
    def spec(self) -> Spec:
        """Names, shapes and dtypes of the tunable."""
        ...

    @property
    def up(self) -> UpdatePath:
        """Stages of updates."""
        ...

    @property
    def clients(self) -> Mapping[str, int]:
        """Client id → training examples, as far as they are known."""
        ...

    @property
    def seed(self) -> int:
        """The run's seed."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether all clients are simulated."""
        ...

    def cohort(self, round: int) -> Mapping[str, int]:  # noqa: A002 - the field's word
        """Clients of a round in sorted order → how often each was drawn."""
        ...

    def learning_rate(self, round: int) -> float:  # noqa: A002
        """Local learning rate of a round."""
        ...

    def ask(
        self,
        asks: Mapping[str, Ask],
        *,
        copies: Mapping[str, int] | None = None,
        staleness: Mapping[str, int] | None = None,
        quorum: bool = True,
    ) -> Iterator[ClientUpdate]:
        """Asks clients and yields the sound answers in the order of ``asks``, whenever they arrive.

        Where more clients were asked than the round needs, the first to answer count, in the order of arrival.

        Args:
            asks: client id → what it is asked.
            copies: client id → how often it was drawn; None: once.
            staleness: client id → server steps since the parameters that it starts from; None: 0.
            quorum: whether the answers must reach the quorum; where not, all are waited for.

        Raises:
            InterruptedRunError: the run was asked to stop.
            TooFewClientsError: fewer sound answers than the quorum.
        """
        ...

    def require(self, accepted: int, wanted: int) -> None:
        """Checks the quorum of a round whose answers were asked for in parts.

        Raises:
            TooFewClientsError: there are fewer sound answers.
        """
        ...

    @property
    def outstanding(self) -> Collection[str]:
        """Clients that were asked and have not answered."""
        ...

    def duration(self, client: str, number: int) -> float:
        """Virtual seconds of a simulated client's work in a round, by its device; 0 where the recipe names none."""
        ...

    def submit(self, asks: Mapping[str, Ask]) -> None:
        """Asks clients without waiting for them."""
        ...

    def next(self, staleness: Mapping[str, int]) -> ClientUpdate | None:
        """The next sound answer to what was submitted; None where nothing is outstanding.

        Its arrival is written to the run's events first; a resumed run gets arrivals in that order again.
        """
        ...

    def note(self, kind: str, client: str | None, reason: str) -> None:
        """Adds a line to the run's events, at once."""
        ...

    def keep(self, name: str, client: str, params: Params) -> None:
        """Stores tensors of a client with this round's state; only where clients are simulated."""
        ...

    def kept(self, name: str, client: str, *, fresh: bool = False) -> Params | None:
        """What `keep` stored under a name for a client; None where nothing was.

        Args:
            name: as for `keep`.
            client: client id.
            fresh: whether it was stored in this round; otherwise in the client's last committed one.
        """
        ...

    def peer(self, sender: str, receiver: str, params: Params) -> None:
        """Records that one client sent another its tunable."""
        ...


class Protocol(Settings):
    """Who asks whom for what in a round."""

    kind: str

    works: ClassVar[Sequence[str]] = ("train",)
    """Kinds of work that clients are asked for."""
    asks_everyone: ClassVar[bool] = False
    """Whether every client takes part in every round."""
    exchanges: ClassVar[int] = 1
    """Answers that a client gives in a round, for each kind of work, at most."""

    def start(self, params: Params, algorithm: Algorithm) -> State:
        """The state before round 1.

        Args:
            params: the tunable as initialised.
            algorithm: the recipe's.
        """
        return State(0, params, algorithm.start(params))

    def step(self, state: State, io: IO) -> State:
        """Plays one round; ``state`` is not changed.

        Raises:
            InterruptedRunError: the run was asked to stop.
            TooFewClientsError: fewer sound answers than the quorum.
        """
        raise NotImplementedError

    def figures(self, state: State) -> dict[str, float]:
        """What summary and report say of the protocol's state."""
        return {}
