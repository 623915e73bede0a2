"""What a protocol may use of a run. The server implements it with runtimes, ledgers and client state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from typing import Protocol as Interface

from torch import Tensor

from fedfm.aggregation import Contribution, Rule
from fedfm.algorithms import Algorithm
from fedfm.clients.distilling import Learner
from fedfm.contributions import Valuation
from fedfm.data.examples import Examples
from fedfm.params import Params
from fedfm.privacy import Release
from fedfm.spec import Spec
from fedfm.tasks.public import PublicTexts
from fedfm.tasks.public_pairs import PublicPairs
from fedfm.updates import Done, UpdatePath
from fedfm.views import Slices
from fedfm.views.modalities import Kind
from fedfm.views.selection import Selection, TunableLayers


@dataclass(frozen=True)
class Ask:
    """What a client is asked; clients that share one object get the same bytes where they hold the same part.

    Attributes:
        round: 1-based round; key of the client's random choices.
        params: the tunable to start from, in full coordinates; empty for a client that starts from its own.
        extras: what the algorithm sends beside it, in full coordinates, by group.
        groups: groups that are sent as they are.
        work: the kind of work.
        learning_rate: of the local optimiser.
        expects: groups of the answer; None: those of a client's update.
        facts: a method's own facts, at most 16.
        counted: whether the message and its answer cross a wire; False where only a simulation sends them.
    """

    round: int
    params: Params
    extras: Mapping[str, Params] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    work: str = "train"
    learning_rate: float = 0.0
    expects: Mapping[str, Spec] | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    counted: bool = True


@dataclass(frozen=True)
class ClientUpdate:
    """A sound answer, or the mean of many of which the server has seen the sum only.

    Attributes:
        client: client id.
        groups: decoded tensors by group; of ``tunable``, the part that the client holds.
        facts: what the client reports of its work.
        contribution: what a rule may weigh it by.
        slices: the part of the tunable that the client holds.
        summed: the clients of a mean, whose facts are sums; empty for the answer of one client.
        expected: the number of clients that a private mean was divided by, whoever answered; 0 for any other.
    """

    client: str
    groups: Mapping[str, Mapping[str, Tensor]]
    facts: Done
    contribution: Contribution
    slices: Slices
    summed: Sequence[str] = ()
    expected: float = 0.0

    @property
    def is_mean(self) -> bool:
        """Whether it is no single client's."""
        return bool(self.summed) or self.expected > 0


class KnowsRun(Interface):
    """What a run is: recipe, model and clients."""

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
    def start(self) -> Mapping[str, Tensor]:
        """The tunable as initialised, before round 1; each tensor is read from disk when it is asked for."""
        ...

    @property
    def up(self) -> UpdatePath:
        """Stages of updates."""
        ...

    @property
    def peer_path(self) -> UpdatePath:
        """Stages of what clients send each other; without any unless the protocol has `peer_stages`."""
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
    def rounds(self) -> int:
        """Rounds of the run."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether all clients are simulated."""
        ...

    @property
    def backbones(self) -> Mapping[str, int]:
        """Client id → place of its backbone in `federation.models`; clients that have the server's are not in it."""
        ...

    def kind(self, client: str) -> Kind:
        """Whether a client has images, texts or both, by `federation.modalities`."""
        ...

    @property
    def selection(self) -> Selection:
        """The recipe's `select`."""
        ...

    @property
    def contribution(self) -> Valuation:
        """The recipe's `contribution`."""
        ...

    @property
    def layers(self) -> TunableLayers:
        """The layers of the clients' model, and what of the tunable is in each."""
        ...

    def ends_task(self, round: int) -> bool:  # noqa: A002
        """Whether a round is the last of a task of the recipe's stream that another one follows."""
        ...

    def learning_rate(self, round: int) -> float:  # noqa: A002
        """Local learning rate of a round."""
        ...

    def duration(self, client: str, number: int) -> float:
        """Virtual seconds of a simulated client's work in a round, by its device; 0 where the recipe names none."""
        ...


class HasServer(Interface):
    """What the server has beside its clients: data and a model of its own."""

    @property
    def public(self) -> PublicTexts:
        """The recipe's public data; only for a protocol with `public_examples`."""
        ...

    @property
    def public_pairs(self) -> PublicPairs:
        """As `public`, where the task is on pairs of an image and a text."""
        ...

    @property
    def student(self) -> Learner:
        """The server's model; its tunable has the value that was last written to it."""
        ...

    @property
    def server_model(self) -> Learner:
        """The protocol's `server_model`."""
        ...

    @property
    def validation(self) -> Examples:
        """The server's `data.validation`; only where the protocol or `contribution` judges by it."""
        ...

    def judge(self, params: Params) -> tuple[float, ...]:
        """The main metric of the backbone with a tunable plugged in, and then its loss, on `data.validation`.

        Both are signed so that the highest is best.

        Args:
            params: the whole tunable.
        """
        ...

    def root_update(self, params: Params, round: int, *, steps: int | None = None) -> Params:  # noqa: A002
        """What the server learns from ``data.root``, as a client would in a round.

        Args:
            params: the tunable that it starts from.
            round: 1-based round.
            steps: optimiser steps, in place of the recipe's ``local`` budget.
        """
        ...

    def merge(self, residual: Params) -> None:
        """Adds factors to the frozen weights that all clients hold, once the round is over.

        Args:
            residual: as `fedfm.aggregation.Fold.residual`.
        """
        ...


class AsksClients(Interface):
    """How clients are asked."""

    def cohort(self, round: int) -> Mapping[str, int]:  # noqa: A002 - the field's word
        """Clients of a round in sorted order → how often each was drawn."""
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

    def submit(self, asks: Mapping[str, Ask]) -> None:
        """Asks clients without waiting for them."""
        ...

    def next(self, staleness: Mapping[str, int]) -> ClientUpdate | None:
        """The next sound answer to what was submitted; None where nothing is outstanding.

        Each answer is written to the run's events first; a resumed run gets answers in that order again.

        Args:
            staleness: client id → server steps since the parameters that it starts from. The answer of a client that
                is not in it is dropped, and what that client keeps stays as it was before.
        """
        ...

    @property
    def outstanding(self) -> Collection[str]:
        """Clients that were asked and have not answered."""
        ...

    @property
    def sums_only(self) -> bool:
        """Whether the server may see the sum of a round's updates only, so that `total` takes the place of `ask`."""
        ...

    def total(self, ask: Ask, clients: Collection[str]) -> ClientUpdate:
        """The weighted mean of the clients' updates, by the recipe's rule, without any single one.

        Clients that drop out on the way are not in it.

        Args:
            ask: what all are asked.
            clients: of the round.

        Raises:
            InterruptedRunError: the run was asked to stop.
            TooFewClientsError: fewer clients than the quorum, or than the recipe's `secure` needs.
        """
        ...

    def release(
        self,
        round: int,  # noqa: A002 - the field's word
        state: Params,
        groups: Mapping[str, Spec] | None = None,
    ) -> Release | None:
        """How the updates of a round become one private mean; None where the recipe promises no privacy.

        Args:
            round: 1-based round.
            state: what the last release left; empty before the first.
            groups: what each client sends; None: its update of the tunable, and what the algorithm returns beside it.
        """
        ...

    def require(self, accepted: int, wanted: int) -> None:
        """Checks the quorum of a round that asked its clients in several parts.

        Raises:
            TooFewClientsError: there are fewer sound answers.
        """
        ...

    def require_updates(self, updates: int) -> None:
        """Checks that the recipe's rule can combine so many updates.

        Raises:
            TooFewClientsError: it needs more (`Rule.least`).
        """
        ...

    def peer(self, sender: str, receivers: Sequence[str], params: Mapping[str, Tensor]) -> int:
        """Records what one client sent others: values of its tunable, or what `peer_path` made of them.

        Returns:
            The bytes of one message.
        """
        ...

    def relay(self, direction: Literal["down", "up"], edge: str, params: Params) -> int:
        """Records what the server sent to an aggregator below it (``down``), or got from it (``up``).

        Returns:
            The bytes of the message.
        """
        ...


class KeepsRecords(Interface):
    """What is written down with a round."""

    def note(self, kind: str, client: str | None, reason: str) -> None:
        """Adds a line to the round's events."""
        ...

    def record(self, figures: Mapping[str, float]) -> None:
        """Adds figures of the round's training to its line in metrics.jsonl."""
        ...

    def measure(self, split: str, figures: Mapping[str, Any]) -> None:
        """Adds a line to the round's metrics.

        Args:
            split: what it is about; a name that no data has.
            figures: name → number; under ``layers``, name of a layer → its figures; under ``client``, the client that
                the line is about.
        """
        ...

    def keep(self, name: str, client: str, params: Params) -> None:
        """Stores tensors of a client with this round's state, in the run's folder."""
        ...

    def kept(self, name: str, client: str, *, fresh: bool = False) -> Params | None:
        """What `keep` stored under a name for a client; None where nothing was.

        Args:
            name: as for `keep`.
            client: client id.
            fresh: whether it was stored in this round; otherwise in the client's last committed one.
        """
        ...


class IO(KnowsRun, HasServer, AsksClients, KeepsRecords, Interface):
    """All that a protocol may use."""
