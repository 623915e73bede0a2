"""The intake of answers: each one is decoded, screened and counted, or refused with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor

from fedfm.aggregation import Contribution
from fedfm.clients.store import ClientStore
from fedfm.clients.work import WORKS, extra_facts
from fedfm.printable import line, lines
from fedfm.protocols import ClientUpdate
from fedfm.records.ledger import message_record
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.messages import Message
from fedfm.server.rounds.round_records import Records
from fedfm.server.rounds.screening import screen, value_problem
from fedfm.server.rounds.state import StateVersion
from fedfm.server.rounds.totals import Totals
from fedfm.spec import Spec
from fedfm.updates import Failure, MessageError, MessageKey, Reply, Update, decode_update
from fedfm.updates.payload import ACTIVITY
from fedfm.views import CHOICE


class Intake:
    """Takes in the answers of one round."""

    def __init__(
        self, experiment: Experiment, store: ClientStore, records: Records, totals: Totals, *, keeps_state: bool
    ) -> None:
        """An intake.

        Args:
            experiment: the run.
            store: keeps what simulated clients keep.
            records: gets the ledger's lines and the events.
            totals: gets the counts.
            keeps_state: whether clients keep their state on their own disks.
        """
        self._experiment, self._store, self._records, self._totals = experiment, store, records, totals
        self._clients_keep_state = keeps_state

    def take(
        self, reply: Reply, message: Message, *, copies: int = 1, staleness: int | None = 0
    ) -> ClientUpdate | None:
        """The update that a reply brings; None where there is no sound one, and the round's events say why.

        Args:
            reply: what a client answered.
            message: what it was asked.
            copies: how often the client was drawn.
            staleness: server steps since the parameters that the client started from; None: the answer is too late. It
                is dropped, and what the client keeps stays as it was.

        Raises:
            StorageError: what the client keeps cannot be written.
        """
        self._records.spend(reply.client, reply.spent)
        if isinstance(reply.content, Failure):
            self._fail(reply.client, reply.content)
            return None
        size = len(reply.content)
        try:
            update = decode_update(reply.content)
            if staleness is None:
                self._log(reply.client, message, size, update.tensors)
                reason = "its update is more server steps old than protocol.max_staleness allows"
                self._records.event("late", reply.client, reason)
                return None
            sound = self._sound(reply.client, update, message, copies, staleness)
            self._keep(reply, update, message)
        except MessageError as error:
            self._log(reply.client, message, size, {})  # its tensors are not known
            self.refuse(reply.client, line(error))
            return None
        names = self._experiment.contract.up.names(self._before_path(reply.client, message))
        self._log(reply.client, message, size, update.tensors, names)
        kind = WORKS[message.ask.work]
        self._count(sound, trained=kind.trains and not kind.hides)
        return sound

    def refuse(self, client: str, reason: str) -> None:
        """Counts an answer that is refused, and adds the reason to the round's events."""
        self._totals.refused += 1
        self._records.event("refused", client, reason)

    def _fail(self, client: str, failure: Failure) -> None:
        self._totals.failed += 1
        self._totals.stale |= {client} if failure.stale else set()
        self._records.event("failed", client, line(failure.reason), details=lines(failure.details))

    def _log(
        self, client: str, message: Message, size: int, tensors: Mapping[str, Tensor], names: Sequence[str] = ()
    ) -> None:
        """Adds an answer to the ledger, if it crossed a wire."""
        ask = message.ask
        if ask.counted:
            self._totals.bytes_up += size
            record = message_record(ask.round, "up", [client], size, tensors, work=ask.work, names=names)
            self._records.wire.append(record)

    def _before_path(self, client: str, message: Message) -> Mapping[str, Spec]:
        """Groups of an answer before the update path."""
        ask = message.ask
        if ask.expects is not None:
            return ask.expects
        return self._experiment.contract.before_path(client, ask.round, ask.groups.get(CHOICE))

    def _sound(self, client: str, update: Update, message: Message, copies: int, staleness: int) -> ClientUpdate:
        """The decoded update.

        Raises:
            MessageError: it may not touch the model, with the reason.
        """
        contract, before = self._experiment.contract, self._before_path(client, message)
        expected = contract.up.spec(before)
        if reason := self._problem(client, update, message, expected):
            raise MessageError(reason)
        try:
            key = MessageKey(contract.seed, update.round, client)
            groups = contract.up.decode({group: update.groups.get(group, {}) for group in expected}, before, key)
        except ValueError as error:
            raise MessageError(f"its values cannot be decoded: {error}") from error
        if reason := value_problem(groups, update.facts):
            raise MessageError(reason)
        if activity := update.groups.get(ACTIVITY):
            groups[ACTIVITY] = activity
        facts = update.facts
        contribution = Contribution(client, facts.examples, facts.steps, copies, staleness, facts.loss)
        slices = contract.held(client, message.ask.round, message.ask.groups.get(CHOICE))
        return ClientUpdate(client, groups, update.facts, contribution, slices)

    def _problem(self, client: str, update: Update, message: Message, expected: Mapping[str, Spec]) -> str | None:
        """Why an update is refused before its values are decoded, or None."""
        model, instruction = self._experiment.client_model, message.instruction
        reason = screen(
            update,
            instruction,
            expected,
            client=client,
            accepts_stale=model.accepts_stale,
            figures=extra_facts(instruction.work, self._experiment.evaluator.metrics),
        )
        if reason is not None:
            return reason
        activity = update.groups.get(ACTIVITY, {})
        if instruction.facts.count_activity:
            return model.activity_problem(activity)
        return "it sent counts of neurons' use that it was not asked for" if activity else None

    def _keep(self, reply: Reply, update: Update, message: Message) -> None:
        """Stores what a simulated client keeps; it counts once the round is committed.

        Raises:
            MessageError: it is not what the update says.
            StorageError: it cannot be written.
        """
        client, claimed = reply.client, update.facts.state
        if bool(claimed) != self._experiment.keeps_state(client, message.ask.work):
            raise MessageError("it names a state that it should not keep" if claimed else "it names no state to keep")
        found = "" if reply.state is None else hashlib.sha256(reply.state).hexdigest()
        if not self._clients_keep_state and claimed != found:
            raise MessageError("the state that came with it is not the one that it names")
        if reply.state is not None:
            self._store.put(client, update.round, reply.state)
        if claimed:
            self._totals.versions[client] = StateVersion(update.round, claimed)

    def _count(self, update: ClientUpdate, *, trained: bool) -> None:
        facts, totals = update.facts, self._totals
        totals.accepted += 1
        totals.holds[update.client] = facts.proxy_version
        if not trained:  # its client is asked again in the round, or only measured
            return
        self._records.train(update.client, facts.steps, facts.samples)
        totals.updates += 1
        totals.steps += facts.steps
        totals.samples += facts.samples
        totals.examples += facts.examples
        if facts.predictions and facts.loss is not None:
            totals.losses.append((facts.loss, facts.predictions))
        totals.trained.add(update.client)
        for name, counts in update.groups.get(ACTIVITY, {}).items():
            totals.activity[name] = totals.activity.get(name, 0) + counts
