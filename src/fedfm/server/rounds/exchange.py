"""One round's exchange: asks go out, and what comes back is screened, written down and handed to the protocol.

Answers reach the protocol in the order in which it named the clients, whenever they arrive, so a runtime cannot change
the result; what arrives early waits. Where more clients are asked than are needed, the first to answer count.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from fedfm.aggregation import Contribution, Rule
from fedfm.algorithms import Algorithm
from fedfm.clients.distilling import Learner
from fedfm.clients.state import decode_state, encode_state
from fedfm.clients.store import ClientStore
from fedfm.clients.work import WORKS, extra_facts
from fedfm.errors import TooFewClientsError
from fedfm.params import Params
from fedfm.printable import line, lines
from fedfm.protocols import Ask, ClientUpdate
from fedfm.records.folder import RunFolder
from fedfm.records.ledger import message_record
from fedfm.runtimes.base import Runtime
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.arrivals import Arrival, log_arrival
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.messages import Message, Outbox
from fedfm.server.rounds.ordering import Ordering
from fedfm.server.rounds.round_records import Records, Stopwatch
from fedfm.server.rounds.sampling import sample_cohort
from fedfm.server.rounds.screening import screen, value_problem
from fedfm.server.rounds.state import RunState, StateVersion
from fedfm.server.rounds.totals import Totals
from fedfm.spec import Spec
from fedfm.tasks.public import PublicTexts
from fedfm.trackers.listeners import Listener
from fedfm.updates import Failure, MessageError, Reply, Request, Update, UpdatePath, decode_update
from fedfm.updates.payload import ACTIVITY
from fedfm.wire import stored_bytes


@dataclass
class Pending:
    """What lasts from one round to the next while a process plays a run.

    Attributes:
        outstanding: client id → what it was asked and has not answered.
        early: replies that arrived before their turn in ``replay``.
        replay: what arrived before the run was interrupted, in order.
    """

    outstanding: dict[str, tuple[Ask, Message]] = field(default_factory=dict)
    early: dict[str, Reply] = field(default_factory=dict)
    replay: deque[Arrival] = field(default_factory=deque)


class Exchange:
    """A protocol's way to clients in one round; see `fedfm.protocols.IO`.

    Attributes:
        experiment: the run.
        runtime: carries messages.
        outbox: encodes them.
        store: keeps what simulated clients keep.
        folder: the run's folder.
        state: of the run before the exchange.
        forget: client id → the oldest version of its state that may still be asked for.
        records: gets the ledger's lines and the events.
        watch: gets the time.
        totals: counts.
        number: the round that it belongs to; by default the next one.
        phase: under which the clients' time is booked.
    """

    def __init__(
        self,
        experiment: Experiment,
        runtime: Runtime,
        outbox: Outbox,
        store: ClientStore,
        folder: RunFolder,
        state: RunState,
        forget: Mapping[str, int],
        records: Records,
        watch: Stopwatch,
        listeners: Sequence[Listener],
        stop: StopRequest,
        pending: Pending,
        *,
        number: int | None = None,
        phase: str = "train",
    ) -> None:
        self.number, self.phase = state.round + 1 if number is None else number, phase
        self.experiment, self.runtime, self.outbox, self.store, self.folder = (
            experiment, runtime, outbox, store, folder,
        )  # fmt: skip
        self.state, self.forget, self.records, self.watch = state, forget, records, watch
        self.listeners, self.stop = listeners, stop
        self.totals = Totals()
        self._recipe = experiment.recipe
        self._pending = pending

    @property
    def algorithm(self) -> Algorithm:
        """The recipe's algorithm."""
        return self._recipe.algorithm

    @cached_property
    def rule(self) -> Rule:
        """The recipe's rule, with what the sampling decides filled in."""
        return self._recipe.aggregate.under(self._recipe.federation.sampling)

    @property
    def spec(self) -> Spec:
        """Of the tunable."""
        return self.experiment.contract.spec

    @property
    def start(self) -> Mapping[str, Tensor]:
        """The tunable as initialised."""
        return self.experiment.contract.start

    @property
    def up(self) -> UpdatePath:
        """Stages of updates."""
        return self.experiment.contract.up

    @property
    def clients(self) -> Mapping[str, int]:
        """Client id → training examples."""
        return self.experiment.data.clients

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._recipe.seed

    @property
    def rounds(self) -> int:
        """Rounds of the run."""
        return self._recipe.federation.rounds

    @property
    def backbones(self) -> Mapping[str, int]:
        """Client id → place of its backbone in `federation.models`."""
        return self.experiment.backbones

    @property
    def public(self) -> PublicTexts:
        """The recipe's public data."""
        return self.experiment.public_texts

    @property
    def student(self) -> Learner:
        """The server's model."""
        return self.experiment.student

    @property
    def simulated(self) -> bool:
        """Whether clients are simulated."""
        return not self.runtime.keeps_state

    def cohort(self, round: int) -> Mapping[str, int]:  # noqa: A002 - the field's word
        """Clients of a round in sorted order → how often each was drawn."""
        federation = self._recipe.federation
        asked: float
        if federation.sampling == "poisson":
            asked = federation.expected_cohort(len(self.clients))
        else:
            asked = self._recipe.runtime.asked(federation.cohort_size(len(self.clients)), len(self.clients))
        return sample_cohort(self.clients, asked, sampling=federation.sampling, seed=self.seed, round=round)

    def learning_rate(self, round: int) -> float:  # noqa: A002
        """Local learning rate of a round."""
        return self._recipe.local.learning_rate_at(round, self._recipe.federation.rounds)

    def ask(
        self,
        asks: Mapping[str, Ask],
        *,
        copies: Mapping[str, int] | None = None,
        staleness: Mapping[str, int] | None = None,
        quorum: bool = True,
    ) -> Iterator[ClientUpdate]:
        """Asks clients and yields their sound answers, as `fedfm.protocols.IO.ask`."""
        enough = self._enough(asks) if quorum else None
        wanted, ordering = enough or len(asks), Ordering(list(asks), as_they_come=enough is not None)
        self.submit(asks)
        answered = set[str]()
        copied, stale = copies or {}, staleness or {}
        before = self.totals.accepted
        try:
            while len(answered) < len(asks) and (reply := self.runtime.next()) is not None:
                seconds = self.watch.lap(self.phase)
                self.stop.check(f"in round {self.number}")
                if reply.client in answered or reply.client not in asks:
                    self._refuse(reply.client, "it answered twice" if reply.client in answered else "it was not asked")
                    continue
                answered.add(reply.client)
                for client, early in ordering.after(reply.client, reply):
                    yield from self._take(client, early, copied.get(client, 1), stale.get(client, 0))
                for listener in self.listeners:
                    done = min(len(answered), wanted)
                    listener.on_client(self.number, done, wanted, reply.client, seconds)
                self.watch.lap("wire")
                if enough is not None and self.totals.accepted - before == enough:
                    break
        finally:
            self.runtime.drop()
        self.stop.check(f"in round {self.number}")
        for client, left in ordering.left():
            if enough is not None and self.totals.accepted - before == enough:
                self._event("late", client, f"{enough} others were faster")
                del self._pending.outstanding[client]
            else:
                reply = Reply(client, Failure(client, "it gave no answer")) if left is None else left
                yield from self._take(client, reply, copied.get(client, 1), stale.get(client, 0))
        if quorum:
            self.require(self.totals.accepted - before, wanted)

    def submit(self, asks: Mapping[str, Ask]) -> None:
        """Sends clients what they are asked."""
        if self.runtime.remote:
            self.experiment.release()
        now = self._now()
        messages = self.outbox.write(asks, now, self.records.wire, self.forget)
        requests = [Request(client, message.content, self._own(client)) for client, message in messages.items()]
        self.totals.bytes_down += sum(len(messages[client].content) for client in asks if asks[client].counted)
        self._pending.outstanding |= {client: (asks[client], message) for client, message in messages.items()}
        if self.state.proxy is not None and self.experiment.client_model.weights:
            new = dict.fromkeys(asks, self.state.proxy.number)
            self.totals.downloaded |= {client: new[client] for client in asks if client not in now.holders}
        self.watch.lap("wire")
        self.runtime.submit(requests)

    @property
    def outstanding(self) -> Collection[str]:
        """Clients that have not answered."""
        return self._pending.outstanding.keys()

    def duration(self, client: str, number: int) -> float:
        """Virtual seconds of a client's work."""
        return self.experiment.duration(client, number)

    def next(self, staleness: Mapping[str, int]) -> ClientUpdate | None:
        """The next sound answer to what was submitted."""
        while (reply := self._next_reply()) is not None:
            self.watch.lap(self.phase)
            self.stop.check(f"in round {self.number}")
            replay = self._pending.replay
            before = replay.popleft() if replay and replay[0].client == reply.client else None
            wanted, asked = reply.client in staleness, reply.client in self.outstanding
            if before is not None and not before.sound and wanted and not isinstance(reply.content, Failure):
                reply = Reply(reply.client, Failure(reply.client, "it gave no sound update before the interruption"))
            update = next(self._take(reply.client, reply, 1, staleness.get(reply.client)), None)
            if before is None and asked:
                log_arrival(self.folder, self.number, Arrival(reply.client, update is not None))
            if update is not None:
                return update
        return None

    def _next_reply(self) -> Reply | None:
        """The next reply, in the order of ``replay`` as far as its clients have been asked."""
        pending = self._pending
        while True:
            while pending.replay and pending.replay[0].client not in pending.outstanding:
                pending.replay.popleft()  # it was asked before the run was interrupted, and is not asked now
            if pending.early and (not pending.replay or pending.replay[0].client in pending.early):
                first = pending.replay[0].client if pending.replay else next(iter(pending.early))
                return pending.early.pop(first)
            reply = self.runtime.next()
            if reply is None or not pending.replay or reply.client == pending.replay[0].client:
                return reply
            pending.early[reply.client] = reply

    def note(self, kind: str, client: str | None, reason: str) -> None:
        """Adds a line to the round's events."""
        self._event(kind, client, reason)

    def keep(self, name: str, client: str, params: Params) -> None:
        """Stores tensors of a client with this round's state."""
        number, key = self.number, f"{name}/{client}"
        self.totals.versions[key] = StateVersion(number, self.store.put(key, number, encode_state({name: params})))

    def kept(self, name: str, client: str, *, fresh: bool = False) -> Params | None:
        """What `keep` stored."""
        key = f"{name}/{client}"
        version = (self.totals.versions if fresh else self.state.versions).get(key)
        if version is None:
            return None
        content = self.store.get(key, version.number, sha256=version.sha256)
        return None if content is None else decode_state(content)[name]

    def peer(self, sender: str, receiver: str, params: Params) -> None:
        """Records that one client sent another its tunable."""
        size = stored_bytes(params)
        self.totals.bytes_up += size
        self.records.wire.append(message_record(self.number, "peer", [sender, receiver], size, params))

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
        if version is None or self.runtime.keeps_state:
            return None
        return self.store.get(client, version.number, sha256=version.sha256)

    def _enough(self, asks: Mapping[str, Ask]) -> int | None:
        """Sound answers after which no other is waited for; None: all are waited for."""
        federation = self._recipe.federation
        if federation.sampling == "poisson" or not self._recipe.runtime.spares:
            return None
        return min(federation.cohort_size(len(self.clients)), len(asks))

    def _take(self, client: str, reply: Reply, copies: int, staleness: int | None) -> Iterator[ClientUpdate]:
        """The answer, if it is sound; writes down what it is otherwise. Without a staleness it is dropped."""
        if client not in self._pending.outstanding:
            self._refuse(client, "it was not asked")
            return
        ask, message = self._pending.outstanding.pop(client)
        if isinstance(reply.content, Failure):
            failure = reply.content
            self.totals.failed += 1
            self.totals.stale |= {client} if failure.stale else set()
            self._event("failed", client, line(failure.reason), details=lines(failure.details))
            return
        size = len(reply.content)
        self.totals.bytes_up += size if ask.counted else 0
        try:
            update = decode_update(reply.content)
            if staleness is None:
                self._list_up(ask, client, size, update.tensors)
                self._event("late", client, "its update is more server steps old than protocol.max_staleness allows")
                return
            sound = self._sound(client, update, ask, message, copies, staleness)
            self._keep_state(client, reply, update, ask)
        except MessageError as error:
            # Its tensors are not known.
            self._list_up(ask, client, size, {})
            self._refuse(client, line(error))
            return
        self._list_up(ask, client, size, update.tensors, self.up.names(self._expected(ask, client)))
        self._count(client, sound)
        yield sound

    def _list_up(
        self, ask: Ask, client: str, size: int, tensors: Mapping[str, Tensor], names: Sequence[str] = ()
    ) -> None:
        if ask.counted:
            line = message_record(ask.round, "up", [client], size, tensors, work=ask.work, names=names)
            self.records.wire.append(line)

    def _expected(self, ask: Ask, client: str) -> Mapping[str, Spec]:
        """Groups of an answer, before the update path."""
        return self.experiment.contract.before_path(client, ask.round) if ask.expects is None else ask.expects

    def _sound(
        self, client: str, update: Update, ask: Ask, message: Message, copies: int, staleness: int
    ) -> ClientUpdate:
        """An update that may touch the model.

        Raises:
            MessageError: it may not, with the reason.
        """
        contract, model = self.experiment.contract, self.experiment.client_model
        before = self._expected(ask, client)
        expected = contract.up.spec(before)
        reason = screen(
            update,
            message.instruction,
            expected,
            client=client,
            accepts_stale=model.accepts_stale,
            figures=extra_facts(ask.work, self.experiment.evaluator.metrics),
        )
        activity = update.groups.get(ACTIVITY, {})
        if reason is None and activity and not message.instruction.facts.count_activity:
            reason = "it sent counts of neurons' use that it was not asked for"
        if reason is None and message.instruction.facts.count_activity:
            reason = model.activity_problem(activity)
        if reason is not None:
            raise MessageError(reason)
        try:
            groups = contract.up.decode({group: update.groups.get(group, {}) for group in expected}, before)
        except ValueError as error:
            raise MessageError(f"its values cannot be decoded: {error}") from error
        if reason := value_problem(groups, update.facts):
            raise MessageError(reason)
        if activity:
            groups[ACTIVITY] = activity
        contribution = Contribution(client, update.facts.examples, update.facts.steps, copies, staleness)
        slices = contract.views.held(contract.spec, client, ask.round)
        return ClientUpdate(client, groups, update.facts, contribution, slices)

    def _keep_state(self, client: str, reply: Reply, update: Update, ask: Ask) -> None:
        """Stores what a simulated client keeps; it counts once the round is committed.

        Raises:
            MessageError: it is not what the update says.
            StorageError: it cannot be written.
        """
        claimed = update.facts.state
        if bool(claimed) != (WORKS[ask.work].trains and self.experiment.keeps_state(client)):
            raise MessageError("it names a state that it should not keep" if claimed else "it names no state to keep")
        found = "" if reply.state is None else hashlib.sha256(reply.state).hexdigest()
        if not self.runtime.keeps_state and claimed != found:
            raise MessageError("the state that came with it is not the one that it names")
        if reply.state is not None:
            self.store.put(client, update.round, reply.state)
        if claimed:
            self.totals.versions[client] = StateVersion(update.round, claimed)

    def _count(self, client: str, update: ClientUpdate) -> None:
        facts, totals = update.facts, self.totals
        totals.accepted += 1
        totals.steps += facts.steps
        totals.samples += facts.samples
        totals.examples += facts.examples
        if facts.predictions and facts.loss is not None:
            totals.losses.append((facts.loss, facts.predictions))
        totals.trained[client] = facts.proxy_version
        for name, counts in update.groups.get(ACTIVITY, {}).items():
            totals.activity[name] = totals.activity.get(name, 0) + counts

    def _refuse(self, client: str, reason: str) -> None:
        self.totals.refused += 1
        self._event("refused", client, reason)

    def _event(self, kind: str, client: str | None, reason: str, **more: str) -> None:
        self.records.events.append({"round": self.number, "kind": kind, "client": client, "reason": reason, **more})

    def require(self, accepted: int, wanted: int) -> None:
        """Checks the quorum, as `fedfm.protocols.IO.require`."""
        federation = self._recipe.federation
        quorum, least = federation.quorum, federation.min_clients or 0
        if accepted >= max(quorum * wanted, least):
            return
        asks = f"federation.quorum ({quorum:g}) asks for"
        if accepted >= quorum * wanted:
            asks = f"federation.min_clients ({least}) asks for"
        raise self._too_few(f"only {accepted} of {wanted} clients gave a sound update in round {self.number}", asks)

    def require_updates(self, updates: int) -> None:
        """Checks that the rule can combine so many updates, as `fedfm.protocols.IO.require_updates`."""
        if updates < self.rule.least:
            needs = f"the {self.rule.least} that `aggregate.rule: {self.rule.rule}` needs"
            raise self._too_few(f"round {self.number} has {updates} sound updates", needs)

    def _too_few(self, found: str, needed: str) -> TooFewClientsError:
        """The error that ends a round; writes the round's events first, which will not be committed."""
        for event in self.records.events:
            self.folder.append(self.folder.events, event)
        first = self.records.events[:5]
        reasons = "".join(f"\n  client {line(event['client'])} {event['kind']}: {event['reason']}" for event in first)
        return TooFewClientsError(
            f"{found}, fewer than {needed}; see {self.folder.events}{reasons}",
            repeats=not self.totals.failed,  # every choice is keyed, so the same updates come again
        )
