"""What goes out in a round: each client's message, and the proxy for those that have none yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedfm.params import Params
from fedfm.proxies.base import ClientModel, ModelVersion
from fedfm.records.jsonl import Record
from fedfm.records.ledger import message_record
from fedfm.runtimes.base import Runtime
from fedfm.server.rounds.exchange import Answers
from fedfm.server.rounds.state import RunState
from fedfm.updates import Instruction, encode_instruction


class Outgoing:
    """Writes messages, and keeps the ledger of them."""

    def __init__(self, runtime: Runtime, proxy: ClientModel | None) -> None:
        self.runtime = runtime
        self.proxy = proxy
        self._listed: tuple[int, Record] | None = None

    def __call__(
        self, state: RunState, instruction: Instruction, cohort: Sequence[str], ledger: list[Record]
    ) -> dict[str, bytes]:
        """Each client's message; those that hold the same version of the proxy share one.

        A client without the proxy downloads it as it is now, which the ledger lists beside the messages.

        Args:
            state: before the round.
            instruction: what all are asked.
            cohort: client ids, sorted.
            ledger: gets a line for each message that differs.
        """
        number, version, messages = instruction.round, state.proxy, dict[str, bytes]()
        if version is not None:
            new = [client for client in cohort if client not in state.holders]
            self.runtime.hand_out(new, version)
            if new:
                ledger.append({**self._download(version), "round": number, "clients": new})
        held: dict[int, list[str]] = {}
        for client in cohort:
            held.setdefault(state.holders.get(client, instruction.proxy_version), []).append(client)
        for since, clients in sorted(held.items()):
            each = replace(instruction, proxy_since=since, proxy=self._changes(version, since))
            message = encode_instruction(each)
            ledger.append(message_record(number, "down", clients, len(message), each.tensors))
            messages |= dict.fromkeys(clients, message)
        return {client: messages[client] for client in cohort}

    def _changes(self, version: ModelVersion | None, since: int) -> Params:
        """What a client misses that holds the proxy as it was at ``since``."""
        if version is None or self.proxy is None:
            return {}
        return self.proxy.changes(version, since)

    def _download(self, version: ModelVersion) -> Record:
        """The ledger's line of a whole proxy; its tensors are digested once a version."""
        if self.proxy is None:
            raise RuntimeError("there is no proxy to hand out")
        if self._listed is None or self._listed[0] != version.number:
            weights, size = self.proxy.weights, self.proxy.download_bytes
            self._listed = version.number, message_record(0, "down", [], size, weights, kind="download")
        return self._listed[1]


def holders(state: RunState, cohort: Mapping[str, int], came_back: Answers) -> dict[str, int]:
    """Who holds which version after a round; those whose proxy could not be brought up to date have none.

    Args:
        state: before the round.
        cohort: who took part.
        came_back: what they answered.
    """
    if state.proxy is None:
        return {}
    downloaded = {client: state.proxy.number for client in cohort if client not in state.holders}
    held = {**state.holders, **downloaded, **came_back.trained}
    return {client: number for client, number in held.items() if client not in came_back.stale}
