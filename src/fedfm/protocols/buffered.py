"""Buffered asynchronous training: the server steps whenever a few updates have arrived, without waiting for a cohort.

Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation (FedBuff), arXiv:2106.06639, Algorithm 1.
`federation.per_round` clients work at any time. Each starts from the server's parameters as they are when it starts;
when `size` updates have arrived, they are folded and the server steps. An update that is τ server steps old is scaled
by 1/√(1 + τ) before it is folded. With devices of equal speed and `size` equal to `per_round`, this is FedAvg.

Where clients are simulated, a virtual clock orders the arrivals, so that a run is a function of its recipe: a client's
duration follows from its device (`federation.devices`), its steps and its bytes. With real sites each arrival is
written to events.jsonl before it is folded, and a resumed run folds in that order again.

A client does not start twice from the same parameters: one that has answered rests until the server has stepped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fedfm import capabilities
from fedfm.algorithms import ServerState
from fedfm.errors import RecipeError
from fedfm.params import Params, map_params
from fedfm.protocols.base import Messages, Protocol, State
from fedfm.protocols.folding import RoundFold
from fedfm.protocols.io import IO, Ask, ClientUpdate
from fedfm.randomness import numpy_generator
from fedfm.wire import TUNABLE

BASE = "base/"
"""Prefix of the groups of parameters from which clients that still work have started."""


@dataclass(frozen=True)
class Flight:
    """A client at work.

    Attributes:
        client: client id.
        version: server steps when it started, which are those of its parameters.
        arrives: virtual time of its answer in seconds; 0 where clients are real.
        order: of its start among all; breaks ties.
    """

    client: str
    version: int
    arrives: float
    order: int


class Buffered(Protocol):
    """The server steps whenever a few updates have arrived (FedBuff)."""

    kind: Literal["buffered"] = "buffered"
    """The server steps whenever a few updates have arrived (FedBuff, arXiv:2106.06639)."""
    size: Annotated[int, Field(ge=1)] | None = None
    """Updates for one server step, K, at most as many as there are clients; null: `federation.per_round`. A round of
    the run is one step."""
    max_staleness: Annotated[int, Field(ge=0)] | None = None
    """Updates that are more server steps old are dropped; null: none is."""

    takes: ClassVar[Mapping[str, str]] = {
        capabilities.BARRIER: "the server waits for no cohort",
        capabilities.SAME_ROUND: "clients start whenever they are free",
    }
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.FIXED_COHORT: "as many clients work at any time",
        capabilities.ONE_BACKBONE: "the server adds up updates of one tunable",
    }

    def step(self, state: State, io: IO) -> State:
        """Waits until the buffer is full, folds it, steps, and starts clients again."""
        size = self.size or len(io.cohort(state.round + 1))
        if size > len(io.clients):
            raise RecipeError(
                f"{size} updates for a step are more than the {len(io.clients)} clients", where="protocol.size"
            )
        air = _Air(state, io, self.max_staleness)
        fold, staleness = RoundFold(io, state.params, state.round + 1), list[int]()
        while len(staleness) < size and air.flights:
            for update in air.arrivals(size - len(staleness)):
                age = update.contribution.staleness
                fold.add(_scaled(update, 1 / math.sqrt(1 + age)))
                staleness.append(age)
        io.require(len(staleness), size)
        number = state.round + 1
        params, server = fold.server_step(state.params, air.server)
        return air.landed(number, params, server, sum(staleness) / len(staleness))

    def folds(self, cohort: int) -> tuple[int, str] | None:
        """`size`."""
        return super().folds(cohort) if self.size is None else (self.size, "protocol.size")

    def messages(self, clients: Sequence[str], asked: int, answers: int) -> Messages:
        """A step folds `size` updates, and as many clients start again."""
        size = self.size or asked
        return Messages(down=size, up=size)

    def figures(self, state: State) -> dict[str, float]:
        """Virtual seconds, and the mean staleness of the last step's updates."""
        return {name: float(state.facts[name]) for name in ("clock", "mean_staleness") if name in state.facts}


class _Air:
    """Clients at work, and the parameters from which they started."""

    def __init__(self, state: State, io: IO, max_staleness: int | None) -> None:
        self._io, self._version = io, state.round
        self._most = math.inf if max_staleness is None else max_staleness
        self.flights = [Flight(**flight) for flight in state.facts.get("in_flight", [])]
        self.server = {name: group for name, group in state.server.items() if not name.startswith(BASE)}
        self._bases = {int(name.removeprefix(BASE)): state.server[name] for name in state.server.keys() - self.server}
        self._bases[state.round] = state.params
        self._clock, self._started = float(state.facts.get("clock", 0.0)), int(state.facts.get("started", 0))
        self._rested: set[str] = set()
        self._asks: dict[int, Ask] = {}
        if not self.flights:
            self._start(list(io.cohort(state.round + 1)))
        elif not io.simulated:
            self._submit([flight for flight in self.flights if flight.client not in io.outstanding])

    def arrivals(self, room: int) -> Iterator[ClientUpdate]:
        """The sound updates that arrive next, at most ``room``; idle clients start in place of those that arrived."""
        before = len(self.flights)
        yield from self._virtual(room) if self._io.simulated else self._real()
        if (landed := before - len(self.flights)) < room:
            self._start(self._idle(f"buffered {self._started}")[:landed])

    def landed(self, number: int, params: Params, server: ServerState, staleness: float) -> State:
        """The state after a server step; idle clients have started from the new parameters."""
        self._version, self._rested = number, set()
        self._bases[number] = params
        cohort = list(self._io.cohort(number + 1))
        # A pipeline that is empty is filled with the round's cohort, as in a synchronous round.
        idle = self._idle("buffered") if self.flights else cohort
        self._start(idle[: max(0, len(cohort) - len(self.flights))])
        used = {flight.version for flight in self.flights} - {number}
        bases = {f"{BASE}{version}": self._bases[version] for version in sorted(used)}
        facts: dict[str, Any] = {
            "clock": self._clock,
            "started": self._started,
            "in_flight": [asdict(flight) for flight in self.flights],
            "mean_staleness": staleness,
        }
        return State(number, params, {**server, **bases}, facts)

    def _virtual(self, room: int) -> Iterator[ClientUpdate]:
        """Trains the clients that arrive at the next instant of the virtual clock."""
        self.flights.sort(key=lambda flight: (flight.arrives, flight.order))
        self._clock = self.flights[0].arrives
        due = [flight for flight in self.flights if flight.arrives == self._clock][:room]
        self.flights = [flight for flight in self.flights if flight not in due]
        self._rested |= {flight.client for flight in due}
        fresh = [flight for flight in due if self._is_fresh(flight)]
        ages = {flight.client: self._age(flight) for flight in fresh}
        yield from self._io.ask(
            {flight.client: self._message(flight) for flight in fresh}, staleness=ages, quorum=False
        )

    def _real(self) -> Iterator[ClientUpdate]:
        """Waits for the next site."""
        fresh = [flight for flight in self.flights if self._age(flight) <= self._most]
        update = self._io.next({flight.client: self._age(flight) for flight in fresh})
        waiting = self._io.outstanding
        self._rested |= {flight.client for flight in self.flights if flight.client not in waiting}
        self.flights = [flight for flight in self.flights if flight.client in waiting]
        if update is not None:
            yield update

    def _start(self, clients: Sequence[str]) -> None:
        """Lets clients start from the present parameters."""
        flights = []
        for client in clients:
            seconds = self._io.duration(client, self._version + 1) if self._io.simulated else 0.0
            flights.append(Flight(client, self._version, self._clock + seconds, self._started))
            self._started += 1
        self.flights += flights
        if not self._io.simulated and self._version < self._io.rounds:  # after the last step, only a resumed run asks
            self._submit(flights)

    def _idle(self, purpose: str) -> list[str]:
        """Clients that may start, in a keyed order."""
        busy = {flight.client for flight in self.flights} | self._rested
        order = numpy_generator(self._io.seed, purpose, round=self._version).permutation(sorted(self._io.clients))
        return [str(client) for client in order if str(client) not in busy]

    def _is_fresh(self, flight: Flight) -> bool:
        if (age := self._age(flight)) <= self._most:
            return True
        self._io.note("late", flight.client, f"its update is {age} server steps old (protocol.max_staleness)")
        return False

    def _age(self, flight: Flight) -> int:
        """Server steps since a client has started."""
        return self._version - flight.version

    def _submit(self, flights: Sequence[Flight]) -> None:
        if flights:
            self._io.submit({flight.client: self._message(flight) for flight in flights})

    def _message(self, flight: Flight) -> Ask:
        if flight.version not in self._asks:  # clients that share an ask share its bytes
            number, rate = flight.version + 1, self._io.learning_rate(flight.version + 1)
            self._asks[flight.version] = Ask(number, dict(self._bases[flight.version]), learning_rate=rate)
        return self._asks[flight.version]


def _scaled(update: ClientUpdate, factor: float) -> ClientUpdate:
    """An update with its tunable scaled."""
    if factor == 1:
        return update
    tunable = map_params(lambda delta: delta * factor, update.groups[TUNABLE])
    return replace(update, groups={**update.groups, TUNABLE: tunable})
