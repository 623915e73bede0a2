"""What each client holds of the tunable, as far as the server has it, and the one tunable that stands for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedfm.clients import Contract
from fedfm.clients.contract import PERSONAL
from fedfm.clients.state import decode_state
from fedfm.clients.store import ClientStore
from fedfm.data.settings import SITES
from fedfm.params import Params, add, map_params
from fedfm.protocols import Protocol, State
from fedfm.recipe import Recipe
from fedfm.records.folder import RunFolder
from fedfm.server.rounds.state import RunState, StateVersion


def kept_here(folder: RunFolder, recipe: Recipe) -> ClientStore | None:
    """What clients keep; None for real sites, which keep it on their own disks.

    The tunables of a protocol under which each client has its own are here for sites, too.
    """
    here = recipe.data.train != SITES or recipe.protocol.own_tunable is not None
    return ClientStore(folder.client_state) if here else None


@dataclass(frozen=True)
class ClientModels:
    """Reads what clients keep.

    Attributes:
        contract: what crosses; knows the personal parts.
        protocol: says whether clients have tunables of their own.
        store: as `kept_here`.
        versions: client id → the version that it keeps now.
        state: of the protocol.
    """

    contract: Contract
    protocol: Protocol
    store: ClientStore | None
    versions: Mapping[str, StateVersion]
    state: State

    @classmethod
    def after(cls, state: RunState, contract: Contract, protocol: Protocol, store: ClientStore | None) -> ClientModels:
        """The clients' models after the rounds of a state."""
        return cls(contract, protocol, store, state.versions, state.protocol)

    @property
    def differ(self) -> bool:
        """Whether clients hold different models, which are here."""
        return self.store is not None and (
            self.protocol.own_tunable is not None or bool(self.contract.personal) or self.contract.has_copies
        )

    def of(self, client: str, params: Params) -> Params:
        """The whole tunable of one client.

        Args:
            client: client id.
            params: the tunable that the run delivers.

        Raises:
            StorageError: what the client keeps cannot be read.
        """
        if (name := self.protocol.own_tunable) is not None:
            return self._kept(f"{name}/{client}").get(name, params)
        if (expert := self.protocol.expert_of(client, self.state)) is not None:
            params = self.protocol.experts(self.state)[expert]
        return self.contract.at_client(client, self.state.round, params, self._kept(client))

    def delivered(self, params: Params, clients: int) -> Params:
        """The shared part of ``params``, with the mean over all clients in personal places.

        Each client has the same weight. A client that has not taken part counts with the initial values. For real
        sites, which keep their personal parts, these places have the initial values.

        Args:
            params: the server's tunable.
            clients: how many there are.

        Raises:
            StorageError: what a client keeps cannot be read.
        """
        personal = self.contract.personal
        if not personal:
            return params
        total, found = map_params(lambda tensor: tensor.double() * 0, personal), 0
        for client in sorted(self.versions) if self.store is not None else ():
            if own := self._kept(client).get(PERSONAL):
                total, found = add(total, map_params(lambda tensor: tensor.double(), own)), found + 1
        rest = clients - found
        mean = map_params(
            lambda start, tensors: ((tensors + rest * start.double()) / clients).to(start.dtype), personal, total
        )
        return {**params, **(mean if found else personal)}

    def _kept(self, key: str) -> dict[str, Params]:
        """The state that is stored under a key; empty before a client's first round."""
        version = self.versions.get(key)
        if version is None or self.store is None:
            return {}
        content = self.store.get(key, version.number, sha256=version.sha256)
        return {} if content is None else decode_state(content)
