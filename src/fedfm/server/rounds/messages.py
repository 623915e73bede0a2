"""Messages to clients: what a protocol asks, with what the server knows of each client's proxy and state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedfm.clients import Contract
from fedfm.params import digest
from fedfm.protocols import Ask
from fedfm.proxies.base import ClientModel, ModelVersion
from fedfm.records.jsonl import Record
from fedfm.records.ledger import message_record
from fedfm.runtimes.base import Runtime
from fedfm.server.rounds.state import RunState
from fedfm.spec import Spec
from fedfm.updates import Asked, Instruction, MessageKey, Payload, decode_instruction
from fedfm.updates.payload import PROXY
from fedfm.views import Slices, narrow, narrow_spec
from fedfm.views.base import Index
from fedfm.wire import TUNABLE


@dataclass(frozen=True)
class Message:
    """One client's message.

    Attributes:
        ask: what a protocol asks.
        instruction: its content.
        content: its bytes; clients that are asked alike share them.
    """

    ask: Ask
    instruction: Instruction
    content: bytes


class Outbox:
    """Encodes messages, hands out proxies to clients that have none, and keeps the ledger of both.

    Attributes:
        forget: client id → the oldest version of its state that may still be asked for.
    """

    def __init__(
        self, runtime: Runtime, model: ClientModel, contract: Contract, forget: Mapping[str, int] | None = None
    ) -> None:
        self.forget = forget or {}
        self._runtime, self._model, self._contract = runtime, model, contract
        self._listed: tuple[int, Record] | None = None

    def write(self, asks: Mapping[str, Ask], state: RunState, ledger: list[Record]) -> dict[str, Message]:
        """Each client's message; clients that are asked alike, and hold the same, share one.

        Args:
            asks: client id → what a protocol asks.
            state: of the run before the round.
            ledger: gets a line for each message that differs.
        """
        if state.proxy is None:
            raise ValueError("the run has no client model yet")
        number = next(iter(asks.values())).round if asks else 0
        first = (
            state.proxy.number if self._model.is_sent else 0
        )  # what is not sent, a client has as it was before round 1
        self._share(list(asks), number, state, state.proxy, ledger)
        alike: dict[tuple[int, object, int, int, int], list[str]] = {}
        gets: dict[str, Slices] = {}
        for client, ask in asks.items():
            gets[client] = self._contract.views.gets(self._contract.spec, client, ask.round)
            since = state.holders.get(client, first)
            version = state.versions.get(client)
            kept = (version.number if version else 0, self.forget.get(client, 0))
            own = kept if self._runtime.keeps_state else (0, 0)
            alike.setdefault((id(ask), _signature(gets[client]), since, *own), []).append(client)
        messages: dict[str, Message] = {}
        for (_, _, since, continue_from, forget_before), clients in alike.items():
            ask, slices = asks[clients[0]], gets[clients[0]]
            facts = Asked(
                learning_rate=ask.learning_rate,
                proxy_version=state.proxy.number,
                proxy_since=since,
                count_activity=ask.expects is None and self._model.counts_at(ask.round),
                continue_from=continue_from,
                forget_before=forget_before,
            )
            instruction = self._instruction(ask, facts, slices, state.proxy)
            content = instruction.encode()
            groups = decode_instruction(content).groups
            if not self._contract.down.stages and self._contract.views.whole:
                # The values are now in the message, so the memory that they were in before can be released.
                ask.params.update(groups.get(TUNABLE, {}))
            message = Message(ask, replace(instruction, groups=groups), content)
            if ask.counted:
                names = self._contract.down.names(_specs(ask, narrow_spec(self._contract.spec, slices)))
                size, tensors = len(content), message.instruction.tensors
                ledger.append(message_record(ask.round, "down", clients, size, tensors, work=ask.work, names=names))
            messages |= dict.fromkeys(clients, message)
        return messages

    def _instruction(self, ask: Ask, facts: Asked, slices: Slices, version: ModelVersion) -> Instruction:
        """What is sent to clients that hold the same part of the tunable and the same version of the proxy."""
        full = {TUNABLE: ask.params, **ask.extras} if ask.params else dict(ask.extras)
        whole = self._contract.views.whole
        groups = full if whole else {group: narrow(params, slices) for group, params in full.items()}
        sent, _ = self._contract.down.encode(groups, {}, MessageKey(self._contract.seed, ask.round))
        changes = self._model.changes(version, facts.proxy_since)
        proxy = {PROXY: changes} if changes else {}
        return Payload(ask.round, digest(ask.params), facts, {**sent, **ask.groups, **proxy}, ask.work)

    def _share(
        self, clients: Sequence[str], number: int, state: RunState, version: ModelVersion, ledger: list[Record]
    ) -> None:
        """Lets clients without the proxy download it, which the ledger lists beside the messages."""
        if not self._model.is_sent:
            return
        new = [client for client in clients if client not in state.holders]
        self._runtime.share(new, version)
        if new:
            ledger.append({**self._download(version), "round": number, "clients": new})

    def _download(self, version: ModelVersion) -> Record:
        """The ledger's line of a whole proxy; its tensors are digested once a version."""
        if self._listed is None or self._listed[0] != version.number:
            size, weights = self._model.download_bytes, self._model.weights
            self._listed = version.number, message_record(0, "down", [], size, weights, kind="download")
        return self._listed[1]


def _specs(ask: Ask, spec: Spec) -> dict[str, Spec]:
    """Groups that the update path encodes, before it."""
    return dict.fromkeys((TUNABLE, *ask.extras), spec)


def _signature(slices: Slices) -> tuple[object, ...]:
    """Equal for equal parts."""
    return tuple((name, *map(_positions, parts)) for name, parts in sorted(slices.items()))


def _positions(index: Index) -> tuple[int | None, ...]:
    return (index.start, index.stop) if isinstance(index, slice) else tuple(index.tolist())
