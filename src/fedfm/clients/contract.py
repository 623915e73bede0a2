"""Between the wire and training at a client: decodes what it received, and encodes what it sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fedfm.clients.masking import Masking
from fedfm.clients.rules import TEACHER, ClientRound, Groups, LocalResult, LocalRule
from fedfm.clients.state import State, named, part
from fedfm.params import Params, is_finite, subtract
from fedfm.spec import Spec, empty, problem, spec_of
from fedfm.updates import Asked, Done, Instruction, MessageError, MessageKey, Payload, UpdatePath
from fedfm.views import CHOICE, Slices, Views, holds, narrow, narrow_spec, widen
from fedfm.wire import TUNABLE

_BASE = "0" * 64
"""Stands for a digest."""

PERSONAL = "view/tunable"
"""Group of a client's state: its personal tensors."""

COPY = "copy/tunable"
"""Group of a client's state: the copy of the tunable that its algorithm lets it train for itself."""

OPTIMIZER = "optimizer"
"""Namespace of a client's state: the moments of its optimiser."""


@dataclass(frozen=True)
class Reception:
    """What one client's round starts from.

    Attributes:
        at: full tensors: the server's where the client gets them, its own in personal places, as initialised where they
            are fixed, zero elsewhere.
        held: the part of them that it returns.
        trains: name → bool tensor, the coordinates that it trains; of tensors that are absent, and for None, all.
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
        peer: stages of what clients send each other.
        seed: the run's seed.
        start: the whole tunable as initialised, before round 1; equal at server and clients that hold the same version
            of the model. Both keep it on disk and read a tensor at each access, so that it takes no memory. It must not
            be written to.
        masking: secure sums; None where the server sees each update.
        keeps_optimizer: whether a client keeps the moments of its optimiser.
    """

    spec: Spec
    rule: LocalRule
    views: Views = field(default_factory=Views)
    down: UpdatePath = field(default_factory=UpdatePath)
    up: UpdatePath = field(default_factory=UpdatePath)
    peer: UpdatePath = field(default_factory=UpdatePath)
    seed: int = 0
    start: Mapping[str, Tensor] = field(default_factory=dict)
    masking: Masking | None = None
    keeps_optimizer: bool = False

    @cached_property
    def personal(self) -> Params:
        """Tensors that each client has for itself, as initialised."""
        return {name: self.start[name].clone() for name in sorted(self.views.personal(self.spec))}

    @cached_property
    def fixed(self) -> Params:
        """Tensors that keep their initial values and are never sent."""
        return {name: self.start[name] for name in sorted(self.views.fixed(self.spec))}

    @property
    def stateful(self) -> bool:
        """Whether a client that trains keeps tensors for its next round."""
        kept = self.keeps_optimizer or bool(self.personal) or self.has_copies or bool(self.rule.client_start({}))
        return self.up.stateful or kept

    @property
    def has_copies(self) -> bool:
        """Whether each client trains a copy of the tunable for itself."""
        return self.rule.personal_rule is not None

    def receive(self, client: str, instruction: Instruction, own: State, *, extras: bool = True) -> Reception:
        """Decodes a message and completes it with what the client has for itself.

        Args:
            client: client id.
            instruction: what the server sent.
            own: what the client keeps.
            extras: whether the algorithm's groups come beside the tunable, as the kind of work declares.

        Raises:
            MessageError: a group does not have the spec that the recipe says.
        """
        try:
            views = self.views.under(instruction.groups.get(CHOICE, {}), self.spec)
        except ValueError as error:
            raise MessageError(f"group `{CHOICE}` of the instruction: {error}") from error
        gets = views.gets(self.spec, client, instruction.round)
        held = views.held(self.spec, client, instruction.round)
        beside = self.rule.sent if extras else ()
        specs = {group: narrow_spec(self.spec, gets) for group in (TUNABLE, *beside)} if gets else {}
        crossing = self.down.spec(specs)
        for group, expected in crossing.items():
            if reason := problem(instruction.groups.get(group, {}), expected):
                raise MessageError(f"group `{group}` of the instruction: {reason}")
        key = MessageKey(self.seed, instruction.round)
        groups = self.down.decode({group: instruction.groups.get(group, {}) for group in crossing}, specs, key)
        if self.views.whole:
            received, sent = dict(groups[TUNABLE]), {group: dict(groups[group]) for group in beside}
            trains = None
        else:
            zeros = self._zeros()
            received = widen(groups.get(TUNABLE, {}), gets, {**zeros, **self.fixed, **self._mine(own)})
            sent = {group: widen(groups.get(group, {}), gets, zeros) for group in beside}
            if any(tensor.any() for tensor in sent.get(TEACHER, {}).values()):
                sent[TEACHER] |= self.fixed  # a tunable to compute with, of which fixed tensors are a part
            trains = {
                name: holds(held, name, tensor.shape)
                for name, tensor in self.spec.items()
                if name not in self.personal and held.get(name) != ()
            }
        kept = part(own, "algorithm") or self.rule.client_start(received)
        lr, moments = instruction.facts.learning_rate, part(own, OPTIMIZER)
        return Reception(ClientRound(received, sent, kept, lr, frozenset(self.personal), moments), held, trains)

    def at_client(self, client: str, number: int, params: Params, own: State) -> Params:
        """The full tunable of one client: its copy; else the server's where it gets it, its own in personal places.

        Args:
            client: client id.
            number: round of the view.
            params: the server's tunable.
            own: what the client keeps.
        """
        if self.views.whole:
            return self.served(dict(params), own)
        gets = self.views.gets(self.spec, client, number)
        received = widen(narrow(params, gets), gets, {**self._zeros(), **self.fixed, **self._mine(own)})
        return self.served(received, own)

    def served(self, received: Params, own: State) -> Params:
        """What a client uses: its copy of the tunable, where it has one, else what it has received."""
        return dict(own.get(COPY, {})) or received

    def copy_round(self, at: ClientRound, own: State) -> ClientRound:
        """What the training of the client's copy starts from, beside the round ``at``."""
        return ClientRound(at.received, {}, {}, at.lr, begin=self.served(at.received, own))

    def _zeros(self) -> Params:
        """Zeros with the tunable's shapes; one value in memory for each tensor, since most are replaced as a whole."""
        return {name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in self.spec.items()}

    def _mine(self, own: State) -> Params:
        """A client's personal tensors: as initialised before its first round."""
        return {**self.personal, **own.get(PERSONAL, {})}

    def finish(
        self,
        client: str,
        number: int,
        received: Reception,
        trained: Params,
        result: LocalResult,
        own: State,
        copy: Params | None = None,
    ) -> tuple[dict[str, Mapping[str, Tensor]], State]:
        """What the client sends, and what it keeps from now on, with its copy of the tunable where it has one.

        Raises:
            FloatingPointError: what it would keep is not finite, with which no later round could succeed.
        """
        done = self.rule.client_finish(subtract(trained, received.at.received), received.at, result)
        full: Groups = {TUNABLE: done.update, **done.extras}
        whole = self.views.whole
        groups = {group: params if whole else narrow(params, received.held) for group, params in full.items()}
        stages = {key: params for key, params in own.items() if key.startswith("stage-")}
        stages = stages or self.up.start({TUNABLE: self.spec})
        key, slices = MessageKey(self.seed, number, client), None if whole else received.held
        sent, left = self.up.encode(groups, stages, key, slices)
        mine = {name: trained[name] for name in self.personal}
        kept = {**named("algorithm", _kept(done.own, received)), **left, **({PERSONAL: mine} if mine else {})}
        kept |= named(OPTIMIZER, result.moments) | ({COPY: copy} if copy else {})
        for group, params in kept.items():
            if bad := next((name for name, tensor in params.items() if not is_finite(tensor)), None):
                raise FloatingPointError(
                    f"tensor `{bad}` of what it keeps (`{group}`) is not finite; try a lower local.learning_rate"
                )
        return sent, kept

    @property
    def before_peers(self) -> dict[str, Spec]:
        """Groups of what a client sends another in a protocol without a server, before its stages."""
        fixed = self.views.fixed(self.spec)
        return {TUNABLE: {name: tensor for name, tensor in self.spec.items() if name not in fixed}}

    def held(self, client: str, number: int, choice: Mapping[str, Tensor] | None = None) -> Slices:
        """The part of the tunable that a client returns, under a choice of the server."""
        return self.views.under(choice or {}, self.spec).held(self.spec, client, number)

    def returns(self, client: str, number: int, choice: Mapping[str, Tensor] | None = None) -> dict[str, Spec]:
        """Groups of a client's update as they cross the wire."""
        return dict(self.up.spec(self.before_path(client, number, choice)))

    def announced(self, client: str) -> dict[str, Spec]:
        """Groups of a client's updates as they cross the wire, with the tensors of all rounds."""
        found: dict[str, Spec] = {}
        for number in range(1, self.views.period + 1):
            for group, spec in self.returns(client, number).items():
                found[group] = {**found.get(group, {}), **spec}
        return found

    def message_bytes(self, client: str, number: int, choice: Mapping[str, Tensor] | None = None) -> tuple[int, int]:
        """Bytes of one message to a client that trains, and of its update; numbers in them may have other lengths."""
        gets = narrow_spec(self.spec, self.views.gets(self.spec, client, number))
        down = dict(self.down.spec(dict.fromkeys((TUNABLE, *self.rule.sent), gets)))
        if choice:
            down = {**down, CHOICE: spec_of(choice)}
        return _down_bytes(number, down), _up_bytes(client, number, self.returns(client, number, choice))

    def request_bytes(self, number: int, groups: Mapping[str, Spec]) -> int:
        """Bytes of a message with these groups; as `message_bytes`."""
        return _down_bytes(number, groups)

    def answer_bytes(self, client: str, number: int, groups: Mapping[str, Spec]) -> int:
        """Bytes of an answer with these groups; as `message_bytes`."""
        return _up_bytes(client, number, groups)

    def evaluation_bytes(self, client: str, number: int, metrics: Sequence[str]) -> tuple[int, int]:
        """Bytes of one message to a client that evaluates, and of its answer with these metrics; as `message_bytes`."""
        gets = narrow_spec(self.spec, self.views.gets(self.spec, client, number))
        down = self.down.spec({TUNABLE: gets})
        return _down_bytes(number, down), _up_bytes(client, number, {}, dict.fromkeys(metrics, _FIGURE))

    def before_path(self, client: str, number: int, choice: Mapping[str, Tensor] | None = None) -> dict[str, Spec]:
        """Groups of a client's update before the update path."""
        held = self.held(client, number, choice)
        return {group: narrow_spec(self.spec, held) for group in (TUNABLE, *self.rule.returned)}


_FIGURE = 0.12345678901234567
"""A number of common length."""


def _kept(own: Groups, received: Reception) -> Groups:
    """What a client keeps for the algorithm; it changes only where the client trains."""
    if not received.trains:
        return own
    before, masks = received.at.own, received.trains
    return {
        group: {
            name: tensor.where(masks[name], before[group][name]) if name in masks and group in before else tensor
            for name, tensor in params.items()
        }
        for group, params in own.items()
    }


def _down_bytes(number: int, groups: Mapping[str, Spec]) -> int:
    facts = Asked(learning_rate=_FIGURE)
    return Payload(number, _BASE, facts, {group: empty(spec) for group, spec in groups.items()}).size_bytes


def _up_bytes(client: str, number: int, groups: Mapping[str, Spec], figures: Mapping[str, float] | None = None) -> int:
    """Bytes of a client's answer with some groups and figures."""
    facts = Done(client=client, examples=100, loss=_FIGURE, extra=dict(figures or {}))
    return Payload(number, _BASE, facts, {group: empty(spec) for group, spec in groups.items()}).size_bytes
