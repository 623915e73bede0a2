"""One round's exchange: asks go out, and the sound answers are handed to the protocol; see `intake` for what is sound.

Answers reach the protocol in the order in which it named the clients, whenever they arrive, so a runtime cannot change
the result; what arrives early waits. Where more clients are asked than are needed, the first to answer count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from fedfm.clients.state import decode_state, encode_state
from fedfm.clients.store import ClientStore
from fedfm.clients.work import WORKS
from fedfm.errors import TooFewClientsError
from fedfm.params import Params
from fedfm.printable import line
from fedfm.privacy import Release
from fedfm.protocols import Ask, ClientUpdate
from fedfm.records.ledger import message_record
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.arrivals import Arrival, log_arrival
from fedfm.server.rounds.attacks import attacked
from fedfm.server.rounds.intake import Intake
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.messages import Outbox
from fedfm.server.rounds.ordering import Ordering
from fedfm.server.rounds.pending import Pending
from fedfm.server.rounds.privacy_guard import PrivacyGuard
from fedfm.server.rounds.round_records import Records
from fedfm.server.rounds.run_facts import RunFacts
from fedfm.server.rounds.state import RunState, StateVersion
from fedfm.server.rounds.totals import Totals
from fedfm.spec import Spec
from fedfm.trackers.listeners import Listener
from fedfm.updates import Failure, Reply, Request
from fedfm.wire import TUNABLE, stored_bytes


class Exchange(RunFacts):
    """A protocol's way to clients in one round; see `fedfm.protocols.IO`.

    Attributes:
        pending: what clients have not answered.
        state: of the run before the exchange.
        records: gets the ledger's lines, the events and the time.
        totals: counts.
        residual: factors that `merge` got.
        number: the round that it belongs to.
        phase: under which the clients' time is booked.
    """

    def __init__(
        self,
        experiment: Experiment,
        outbox: Outbox,
        pending: Pending,
        store: ClientStore,
        state: RunState,
        records: Records,
        stop: StopRequest,
        *,
        listeners: Sequence[Listener] = (),
        phase: str = "train",
        guard: PrivacyGuard | None = None,
    ) -> None:
        """An exchange.

        Args:
            experiment: the run.
            outbox: encodes messages.
            pending: what clients have not answered.
            store: keeps what simulated clients keep.
            state: of the run before the exchange.
            records: of the round.
            stop: ends the run.
            listeners: follow the clients' answers.
            phase: under which the clients' time is booked.
            guard: keeps the run's promise of privacy; None where nothing is promised, or nothing is released.
        """
        super().__init__(experiment)
        self.pending, self.state, self.records, self.totals = pending, state, records, Totals()
        self.number, self.phase = records.number, phase
        self.residual: Params = {}
        self._outbox, self._runtime, self._store = outbox, pending.runtime, store
        self._stop, self._listeners, self._guard = stop, listeners, guard
        self._intake = Intake(experiment, store, records, self.totals, keeps_state=self._runtime.keeps_state)

    @property
    def sums_only(self) -> bool:
        """Whether the server may see sums only."""
        return self._recipe.secure.sums_only

    @property
    def simulated(self) -> bool:
        """Whether clients are simulated."""
        return not self._runtime.keeps_state

    def cohort(self, round: int) -> Mapping[str, int]:  # noqa: A002 - the field's word
        """Clients of a round; under a promise of privacy as the guard draws them, without those that have spent."""
        drawn = None if self._guard is None else self._guard.cohort(round, self.clients)
        cohort = super().cohort(round) if drawn is None else drawn
        askable = self._askable(cohort)
        return {client: copies for client, copies in cohort.items() if client in askable}

    def _askable(self, clients: Collection[str]) -> set[str]:
        """Those of some clients that may train in this round; the events say why others may not."""
        unaskable = {} if self._guard is None else self._guard.unaskable(self.number, clients)
        for client, reason in unaskable.items():
            self.note("not asked", client, reason)
        return set(clients) - unaskable.keys()

    def release(
        self,
        round: int,  # noqa: A002 - the field's word
        state: Params,
        groups: Mapping[str, Spec] | None = None,
    ) -> Release | None:
        """How the updates of a round become one private mean."""
        if self._guard is None:
            return None
        if groups is not None:
            return self._guard.release(round, groups, state)
        rule = self.rule.in_round(round)
        trained = rule.trains(self.spec, round) - rule.fixed(self.spec)
        spec = {name: tensor for name, tensor in self.spec.items() if name in trained}
        return self._guard.release(round, dict.fromkeys((TUNABLE, *self.algorithm.returned), spec), state)

    def ask(
        self,
        asks: Mapping[str, Ask],
        *,
        copies: Mapping[str, int] | None = None,
        staleness: Mapping[str, int] | None = None,
        quorum: bool = True,
    ) -> Iterator[ClientUpdate]:
        """Asks clients and yields their sound answers, as `fedfm.protocols.IO.ask`; attackers answer as they like."""
        answers = self._answers(asks, copies or {}, staleness or {}, quorum=quorum)
        attack = self._recipe.federation.attackers
        if attack is None or not all(WORKS[ask.work].sends_update for ask in asks.values()):
            return answers
        attackers = self._experiment.attackers
        self.record({"attackers": len(attackers & asks.keys())})
        return attacked(answers, attack, attackers, self.spec, seed=self.seed, number=self.number)

    def _answers(
        self, asks: Mapping[str, Ask], copied: Mapping[str, int], stale: Mapping[str, int], *, quorum: bool
    ) -> Iterator[ClientUpdate]:
        """The sound answers, in order."""
        enough = self._enough(asks) if quorum else None
        wanted, ordering = enough or len(asks), Ordering(list(asks), as_they_come=enough is not None)
        self.submit(asks)
        answered = set[str]()
        before = self.totals.accepted
        try:
            while len(answered) < len(asks) and (reply := self._runtime.next()) is not None:
                seconds = self.records.watch.lap(self.phase)
                self._stop.check(f"in round {self.number}")
                if reply.client in answered or reply.client not in asks:
                    reason = "it answered twice" if reply.client in answered else "it was not asked"
                    self._intake.refuse(reply.client, reason)
                    continue
                answered.add(reply.client)
                for client, ready in ordering.after(reply.client, reply):
                    if update := self._take(ready, copied.get(client, 1), stale.get(client, 0)):
                        yield update
                for listener in self._listeners:
                    done = min(len(answered), wanted)
                    listener.on_client(self.number, done, wanted, reply.client, seconds)
                self.records.watch.lap("wire")
                if enough is not None and self.totals.accepted - before == enough:
                    break
        finally:
            self._runtime.drop()
        self._stop.check(f"in round {self.number}")
        for client, left in ordering.left():
            if enough is not None and self.totals.accepted - before == enough:
                self.records.event("late", client, f"{enough} others were faster")
                del self.pending.outstanding[client]
            else:
                ready = left or Reply(client, Failure(client, "it gave no answer"))
                if update := self._take(ready, copied.get(client, 1), stale.get(client, 0)):
                    yield update
        if quorum:
            self.require(self.totals.accepted - before, wanted)

    def total(self, ask: Ask, clients: Collection[str]) -> ClientUpdate:
        """The mean of updates of which only the sum is seen, as `fedfm.protocols.IO.total`."""
        contract, settings = self._experiment.contract, self._recipe.secure
        if contract.masking is None:
            raise ValueError("the recipe has no secure sums")
        from fedfm.server.rounds.secure_total import secure_total  # needs the extra `secure`

        tries, left = settings.tries, ""
        for attempt in range(1, tries + 1):
            found = secure_total(self, contract, contract.masking, ask, sorted(self._askable(clients)))
            if isinstance(found, ClientUpdate):
                self.require(len(found.summed), len(clients))
                self.totals.add_mean(found)
                return found
            left = f"attempt {attempt} of {tries}: {found}"
            self.note("not summed", None, left)
        raise self._too_few(f"round {self.number} has no secure sum: {left}")

    def submit(self, asks: Mapping[str, Ask]) -> None:
        """Sends clients what they are asked."""
        if self._runtime.remote:
            self._experiment.release()
        now = self._now()
        if self._guard is not None:
            self._guard.charge(self.number, [client for client, ask in asks.items() if WORKS[ask.work].trains])
        messages = self._outbox.write(asks, now, self.records.wire)
        requests = [Request(client, message.content, self._own(client)) for client, message in messages.items()]
        self.totals.bytes_down += sum(len(messages[client].content) for client in asks if asks[client].counted)
        self.pending.outstanding |= messages
        if self.state.proxy is not None and self._experiment.client_model.is_sent:
            new = dict.fromkeys(asks, self.state.proxy.number)
            self.totals.downloaded |= {client: new[client] for client in asks if client not in now.holders}
        self.records.watch.lap("wire")
        self._runtime.submit(requests)

    @property
    def outstanding(self) -> Collection[str]:
        """Clients that have not answered."""
        return self.pending.outstanding.keys()

    def next(self, staleness: Mapping[str, int]) -> ClientUpdate | None:
        """The next sound answer to what was submitted."""
        while (reply := self.pending.next()) is not None:
            self.records.watch.lap(self.phase)
            self._stop.check(f"in round {self.number}")
            replay = self.pending.replay
            before = replay.popleft() if replay and replay[0].client == reply.client else None
            wanted, asked = reply.client in staleness, reply.client in self.outstanding
            if before is not None and not before.sound and wanted and not isinstance(reply.content, Failure):
                reply = Reply(reply.client, Failure(reply.client, "it gave no sound update before the interruption"))
            update = self._take(reply, 1, staleness.get(reply.client))
            if before is None and asked:
                log_arrival(self.records.folder, self.number, Arrival(reply.client, update is not None))
            if update is not None:
                return update
        return None

    def note(self, kind: str, client: str | None, reason: str) -> None:
        """Adds a line to the round's events."""
        self.records.event(kind, client, reason)

    def record(self, figures: Mapping[str, float]) -> None:
        """Adds figures of the round's training."""
        self.totals.figures |= figures

    def measure(self, split: str, figures: Mapping[str, Any]) -> None:
        """Adds a line to the round's metrics."""
        seconds = round(self.records.watch.seconds.get("total", 0.0), 3)
        line = {"round": self.number, "split": split, "client": None, **figures, "seconds": seconds}
        self.records.metrics.append(line)

    def keep(self, name: str, client: str, params: Params) -> None:
        """Stores tensors of a client with this round's state."""
        number, key = self.number, f"{name}/{client}"
        self.totals.versions[key] = StateVersion(number, self._store.put(key, number, encode_state({name: params})))

    def kept(self, name: str, client: str, *, fresh: bool = False) -> Params | None:
        """What `keep` stored."""
        key = f"{name}/{client}"
        version = (self.totals.versions if fresh else self.state.versions).get(key)
        if version is None:
            return None
        content = self._store.get(key, version.number, sha256=version.sha256)
        return None if content is None else decode_state(content)[name]

    def merge(self, residual: Params) -> None:
        """Keeps factors that are added to the frozen weights at the end of the round."""
        self.residual = residual

    def peer(self, sender: str, receivers: Sequence[str], params: Mapping[str, Tensor]) -> int:
        """Records what one client sent others."""
        size = stored_bytes(params)
        if receivers:
            self.totals.bytes_up += size * len(receivers)
            names = self.peer_path.names(self._experiment.contract.before_peers)
            ends = [sender, *receivers]
            self.records.wire.append(message_record(self.number, "peer", ends, size, params, names=names))
        return size

    def relay(self, direction: Literal["down", "up"], edge: str, params: Params) -> int:
        """Records what the server and an aggregator below it sent each other."""
        size = stored_bytes(params)
        if direction == "down":
            self.totals.bytes_down += size
        else:
            self.totals.bytes_up += size
        self.records.wire.append(message_record(self.number, direction, [edge], size, params, kind="edge"))
        return size

    def _now(self) -> RunState:
        """The state of the run, with what clients have got and kept in this round."""
        versions, holders = self.totals.versions, self.totals.downloaded
        if not versions and not holders:
            return self.state
        return replace(
            self.state, versions={**self.state.versions, **versions}, holders={**self.state.holders, **holders}
        )

    def _own(self, client: str) -> bytes | None:
        """What a simulated client keeps, to ride beside its message."""
        version = self.totals.versions.get(client) or self.state.versions.get(client)
        if version is None or self._runtime.keeps_state:
            return None
        return self._store.get(client, version.number, sha256=version.sha256)

    def _enough(self, asks: Mapping[str, Ask]) -> int | None:
        """Sound answers after which no other is waited for; None: all are waited for."""
        federation = self._recipe.federation
        if federation.sampling == "poisson" or not self._recipe.runtime.spares:
            return None
        return min(federation.cohort_size(len(self.clients)), len(asks))

    def _take(self, reply: Reply, copies: int, staleness: int | None) -> ClientUpdate | None:
        """The update that a reply brings, as `Intake.take`."""
        message = self.pending.outstanding.pop(reply.client, None)
        if message is None:
            self._intake.refuse(reply.client, "it was not asked")
            return None
        return self._intake.take(reply, message, copies=copies, staleness=staleness)

    def require(self, accepted: int, wanted: int) -> None:
        """Checks the quorum, as `fedfm.protocols.IO.require`."""
        federation = self._recipe.federation
        quorum, least = federation.quorum, federation.min_clients or 0
        if accepted >= max(quorum * wanted, least):
            return
        asks = f"federation.quorum ({quorum:g}) asks for"
        if accepted >= quorum * wanted:
            asks = f"federation.min_clients ({least}) asks for"
        found = f"only {accepted} of {wanted} clients gave a sound update in round {self.number}"
        raise self._too_few(f"{found}, fewer than {asks}")

    def require_updates(self, updates: int) -> None:
        """Checks that the rule can combine so many updates, as `fedfm.protocols.IO.require_updates`."""
        if updates < self.rule.least:
            needs = f"the {self.rule.least} that `aggregate.rule: {self.rule.rule}` needs"
            raise self._too_few(f"round {self.number} has {updates} sound updates, fewer than {needs}")

    def _too_few(self, found: str) -> TooFewClientsError:
        """The error that ends a round; writes the round's events first, which will not be committed."""
        folder = self.records.folder
        for event in self.records.events:
            folder.append(folder.events, event)
        first = self.records.events[:5]
        reasons = "".join(f"\n  client {line(event['client'])} {event['kind']}: {event['reason']}" for event in first)
        return TooFewClientsError(
            f"{found}; see {folder.events}{reasons}",
            repeats=not self.totals.failed,  # every choice is keyed, so the same updates come again
        )
