"""What a protocol is: who asks whom for what in a round. The driver records, commits and resumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fedfm.algorithms import Algorithm, ServerState
from fedfm.clients.distilling import Distilling
from fedfm.clients.work import WORKS
from fedfm.params import Params
from fedfm.protocols.io import IO
from fedfm.settings import Settings
from fedfm.spec import Spec


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
class SyntheticSet:
    """Synthetic labelled texts.

    Attributes:
        rows: text and class of each.
        params: a tunable that was trained on them alone.
    """

    rows: Sequence[tuple[str, int]]
    params: Params


@dataclass(frozen=True)
class Messages:
    """Numbers of messages in a round.

    Attributes:
        down: from the server to clients.
        up: from clients to the server.
        peer: tunables, or what stages make of them, from one client to another, on average over rounds.
        relay: whole tunables between the server and aggregators below it, on average over rounds.
    """

    down: int = 0
    up: int = 0
    peer: float = 0
    relay: float = 0


class ServerModel(Settings):
    """A further model at the server, which is not trained and never sent."""

    path: Annotated[str, Field(min_length=1)]
    """Hub id, local folder such as `model/` of a finished run, or `builtin:NAME`."""
    revision: str | None = None
    """Its branch, tag or commit, as `model.revision`."""


class Protocol(Settings):
    """Who asks whom for what in a round."""

    kind: str

    works: ClassVar[Sequence[str]] = ("train",)
    """Kinds of work that clients are asked for."""
    asks_everyone: ClassVar[bool] = False
    """Whether every client takes part in every round."""
    own_tunable: ClassVar[str | None] = None
    """Name under which `IO.keep` stores a tunable for each client, also for a site; None: all clients start from the
    server's."""
    has_experts: ClassVar[bool] = False
    """Whether the server holds several models, each of which serves some clients; see `experts`."""
    peer_stages: ClassVar[bool] = False
    """Whether stages act on what simulated clients send each other, in place of updates to a server."""
    serves_kinds: ClassVar[bool] = False
    """Whether clients that have only images, or only texts, are asked for what these are enough for; see `IO.kind`."""
    writes_texts: ClassVar[bool] = False
    """Whether the server writes examples of one text each; see `synthetic`."""
    exchanges: ClassVar[int] = 1
    """Answers that a client gives in a round, for each kind of work, at most."""

    @property
    def public_examples(self) -> int:
        """Public examples that a round needs; 0: none."""
        return 0

    @property
    def public_sent(self) -> int:
        """Public examples that a message to a client carries."""
        return self.public_examples

    @property
    def judges(self) -> bool:
        """Whether the server decides by `data.validation`."""
        return False

    @property
    def trains_root(self) -> bool:
        """Whether the server trains on `data.root`."""
        return False

    @property
    def digest(self) -> Distilling | None:
        """How a client learns from what the server says of the public examples; None: it does not."""
        return None

    @property
    def server_model(self) -> ServerModel | None:
        """A model beside the recipe's `model` whose predictions the server uses; None: it uses none."""
        return None

    def sends(self, work: str) -> Mapping[str, Spec] | None:
        """Groups of a message that asks for a kind of work, as far as they are known before a run.

        None: the tunable, and what the algorithm sends beside it; public examples are counted beside them.

        Args:
            work: one of `works`.
        """
        return None

    def returns(self, work: str, classes: int) -> Mapping[str, Spec] | None:
        """Groups of an answer to a kind of work; None: those of a client's update, as the kind of work declares.

        Args:
            work: one of `works`.
            classes: of the task; 0 where it has none.
        """
        return None if WORKS[work].sends_update else {}

    def answers(self, work: str, classes: int, spec: Spec) -> Mapping[str, Spec] | None:
        """As `returns`, for a protocol whose answers have the shape of something in the tunable.

        Args:
            work: one of `works`.
            classes: of the task; 0 where it has none.
            spec: of the tunable.
        """
        return self.returns(work, classes)

    def folds(self, cohort: int) -> tuple[int, str] | None:
        """The most updates that the recipe's rule gets for a step, and the key that says so; None: it is not used.

        Args:
            cohort: clients of a round.
        """
        return cohort, "federation.per_round"

    def check(self, clients: Sequence[str]) -> None:
        """Checks, before the model is loaded, that these clients can take part.

        Raises:
            RecipeError: they cannot, with the reason.
        """

    def planned(self, clients: Sequence[str]) -> dict[str, float]:
        """Figures of the protocol that are known before a run, for ``fedfm check``."""
        return {}

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

    def experts(self, state: State) -> Mapping[str, Params]:
        """Name → tunable of each model that the server holds beside the one that it delivers.

        The run writes each to ``experts/NAME/adapter/``.
        """
        return {}

    def expert_of(self, client: str, state: State) -> str | None:
        """Name of the expert that serves a client; None: the delivered model does.

        Args:
            client: client id.
            state: after some rounds.
        """
        return None

    def synthetic(self, state: State) -> Mapping[str, SyntheticSet]:
        """Name → synthetic texts, the ones that the run writes to ``synthetic.jsonl`` first.

        The others are what these are compared with in ``synthetic.json`` and the report.
        """
        return {}

    def messages(self, clients: Sequence[str], asked: int, answers: int) -> Messages:
        """How many messages a round has.

        Args:
            clients: of the run.
            asked: clients that a round asks.
            answers: updates that it needs.
        """
        return Messages(down=asked, up=answers)

    def messages_of_sites(self, clients: Sequence[str], asked: int, answers: int) -> Messages:
        """As `messages`, where the clients are sites, between which there are no lines."""
        return self.messages(clients, asked, answers)

    def figures(self, state: State) -> dict[str, float]:
        """Figures of the protocol's state, for summary and report."""
        return {}
