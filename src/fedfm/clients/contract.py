"""Between the wire and training at a client: what it received, in full coordinates, and what it sends of its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedfm.clients.rules import ClientRound, Groups, LocalResult, LocalRule
from fedfm.clients.state import State, named, part
from fedfm.params import Params, subtract
from fedfm.spec import Spec, empty, problem
from fedfm.updates import Asked, Instruction, MessageError, MessageKey, Payload, UpdatePath
from fedfm.views import Slices, Views, holds, narrow, narrow_spec, widen
from fedfm.wire import TUNABLE, stored_bytes


@dataclass(frozen=True)
class Reception:
    """What one client's round starts from.

    Attributes:
        at: full tensors: the server's where the client gets them, its own in personal places, zero elsewhere.
        held: the part of them that it returns.
        trains: name → bool tensor, the coordinates that it trains; None: all of them.
    """

    at: ClientRound
    held: Slices
    trains: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Contract:
    """What server and client both know of what crosses: the spec, views, stages and groups of a recipe.

    Attributes:
        spec: of the whole tunable.
        rule: the algorithm's side at the client.
        views: which part of the tunable a client holds.
        down: stages of messages to clients.
        up: stages of updates.
        seed: the run's seed.
        personal: tensors that each client has for itself, as initialised.
    """

    spec: Spec
    rule: LocalRule
    views: Views = field(default_factory=Views)
    down: UpdatePath = field(default_factory=UpdatePath)
    up: UpdatePath = field(default_factory=UpdatePath)
    seed: int = 0
    personal: Params = field(default_factory=dict)

    @property
    def stateful(self) -> bool:
        """Whether a client that trains keeps tensors for its next round."""
        return self.up.stateful or bool(self.personal) or bool(self.rule.client_start({}))

    def receive(self, client: str, instruction: Instruction, own: State) -> Reception:
        """Decodes a message and completes it with what the client has for itself.

        Raises:
            MessageError: a group does not have the spec that the recipe says.
        """
        gets = self.views.gets(self.spec, client, instruction.round)
        held = self.views.held(self.spec, client, instruction.round)
        beside = self.rule.sent if instruction.work == "train" else ()
        specs = {group: narrow_spec(self.spec, gets) for group in (TUNABLE, *beside)}
        crossing = self.down.spec(specs)
        for group, expected in crossing.items():
            if reason := problem(instruction.groups.get(group, {}), expected):
                raise MessageError(f"group `{group}` of the instruction: {reason}")
        groups = self.down.decode({group: instruction.groups.get(group, {}) for group in crossing}, specs)
        if self.views.whole:
            received, sent = dict(groups[TUNABLE]), {group: dict(groups[group]) for group in beside}
            trains = None
        else:
            zeros = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in self.spec.items()}
            mine = {**self.personal, **own.get("view/tunable", {})}
            received = widen(groups[TUNABLE], gets, {**zeros, **mine})
            sent = {group: widen(groups[group], gets, zeros) for group in beside}
            trains = {
                name: torch.ones(tensor.shape, dtype=torch.bool)
                if name in self.personal
                else holds(held, name, tensor.shape)
                for name, tensor in self.spec.items()
            }
        kept = part(own, "algorithm") or self.rule.client_start(received)
        return Reception(
            ClientRound(received, sent, kept, instruction.facts.learning_rate, frozenset(self.personal)), held, trains
        )

    def finish(
        self, client: str, number: int, received: Reception, trained: Params, result: LocalResult, own: State
    ) -> tuple[dict[str, Mapping[str, Tensor]], State]:
        """What the client sends, and what it keeps from now on."""
        done = self.rule.client_finish(subtract(trained, received.at.received), received.at, result)
        full: Groups = {TUNABLE: done.update, **done.extras}
        whole = self.views.whole
        groups = {group: params if whole else narrow(params, received.held) for group, params in full.items()}
        stages = {key: params for key, params in own.items() if key.startswith("stage-")}
        stages = stages or self.up.start({TUNABLE: self.spec})
        key, slices = MessageKey(self.seed, number, client), None if whole else received.held
        sent, left = self.up.encode(groups, stages, key, slices)
        mine = {name: trained[name] for name in self.personal}
        return sent, {**named("algorithm", done.own), **left, **({"view/tunable": mine} if mine else {})}

    def returns(self, client: str, number: int) -> dict[str, Spec]:
        """Groups of a client's update as they cross the wire."""
        return dict(self.up.spec(self.before_path(client, number)))

    def message_bytes(self, client: str, number: int) -> tuple[int, int]:
        """Bytes of the tensors of one message to a client, and of its update, with their headers."""
        gets = narrow_spec(self.spec, self.views.gets(self.spec, client, number))
        down = self.down.spec(dict.fromkeys((TUNABLE, *self.rule.sent), gets))
        return _bytes(down), _bytes(self.returns(client, number))

    def before_path(self, client: str, number: int) -> dict[str, Spec]:
        """Groups of a client's update before the update path."""
        held = self.views.held(self.spec, client, number)
        return {group: narrow_spec(self.spec, held) for group in (TUNABLE, *self.rule.returned)}


def _bytes(groups: Mapping[str, Spec]) -> int:
    """Bytes of the tensors of some groups in one message, with its header."""
    return stored_bytes(Payload(0, "", Asked(), {group: empty(spec) for group, spec in groups.items()}).tensors)
