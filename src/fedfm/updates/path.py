"""The update path: the stages of a recipe in order, and the one answer to what crosses the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedfm.params import Params
from fedfm.randomness import derive_seed, numpy_generator
from fedfm.spec import Spec
from fedfm.updates.stages.base import Stage
from fedfm.views.base import Slices, narrow, widen
from fedfm.wire import TUNABLE

GroupSpecs = Mapping[str, Spec]
"""Group → what its tensors are."""


@dataclass(frozen=True)
class MessageKey:
    """Names the random choices of one message."""

    seed: int
    round: int
    client: str = ""


@dataclass(frozen=True)
class UpdatePath:
    """Stages in the order in which the sender applies them.

    Attributes:
        stages: of one direction.
    """

    stages: tuple[Stage, ...] = ()

    @classmethod
    def of(cls, stages: Sequence[Stage], direction: Literal["up", "down"]) -> UpdatePath:
        """The stages of a recipe that act in one direction."""
        return cls(tuple(stage for stage in stages if stage.direction in (direction, "both")))

    def spec(self, specs: GroupSpecs) -> GroupSpecs:
        """What crosses the wire where ``specs`` is sent."""
        return {group: self._specs(group, spec)[-1] for group, spec in specs.items()}

    def names(self, specs: GroupSpecs) -> list[str]:
        """Tensors that travel under other names, by their names on the wire without stages.

        Args:
            specs: of what is encoded.
        """
        return [
            name if group == TUNABLE else f"{group}/{name}"
            for group, spec in specs.items()
            if self._specs(group, spec)[-1].keys() != spec.keys()
            for name in sorted(spec)
        ]

    @property
    def stateful(self) -> bool:
        """Whether a client keeps tensors for a stage."""
        return any(stage.stateful for stage in self.stages)

    def start(self, specs: GroupSpecs) -> dict[str, Params]:
        """What a client keeps for the stages before its first round, by ``stage-N/GROUP``, in full coordinates."""
        found: dict[str, Params] = {}
        for place, stage in enumerate(self.stages):
            for group in stage.groups:
                if stage.stateful and group in specs:
                    found[_state_name(place, group)] = stage.start(self._specs(group, specs[group])[place])
        return found

    def encode(
        self,
        groups: Mapping[str, Mapping[str, Tensor]],
        own: Mapping[str, Params],
        key: MessageKey,
        slices: Slices | None = None,
    ) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Params]]:
        """What is sent, and what is kept for the next round.

        Args:
            groups: the update; where ``slices`` is given, the part of it that the client holds.
            own: as `start` or the last round left it.
            key: of the random choices.
            slices: part of the full tensors that the client holds; None: all of them.
        """
        sent, kept = dict(groups), dict(own)
        for place, stage in enumerate(self.stages):
            for group in stage.groups:
                if group not in sent:
                    continue
                name = _state_name(place, group)
                full = own.get(name, {})
                held = full if slices is None or not full else narrow(full, slices)
                generator = numpy_generator(key.seed, name, round=key.round, client=key.client)
                bound = stage.in_round(_shared_seed(name, key))
                sent[group], left = bound.encode(sent[group], dict(held), generator)
                if full:
                    kept[name] = left if slices is None else widen(left, slices, full)
        return sent, kept

    def decode(
        self, groups: Mapping[str, Mapping[str, Tensor]], specs: GroupSpecs, key: MessageKey
    ) -> dict[str, Mapping[str, Tensor]]:
        """The inverse of `encode`.

        Args:
            groups: as received, with the spec that `spec` returns.
            specs: of what was encoded.
            key: as for `encode`.

        Raises:
            ValueError: the values are impossible; see `Stage.decode`.
        """
        found = dict(groups)
        for place, stage in reversed(list(enumerate(self.stages))):
            for group in stage.groups:
                if group in found:
                    bound = stage.in_round(_shared_seed(_state_name(place, group), key))
                    found[group] = bound.decode(found[group], self._specs(group, specs[group])[place])
        return found

    def finish(self, groups: Mapping[str, Params], cohort: int) -> dict[str, Params]:
        """What the stages do once with a round's aggregate, in reverse order."""
        found = dict(groups)
        for stage in reversed(self.stages):
            for group in stage.groups:
                if group in found:
                    found[group] = stage.finish(found[group], cohort)
        return found

    def _specs(self, group: str, spec: Spec) -> list[Spec]:
        """The spec before the first stage, and after each."""
        specs = [spec]
        for stage in self.stages:
            specs.append(stage.spec(specs[-1]) if group in stage.groups else specs[-1])
        return specs


def _state_name(place: int, group: str) -> str:
    """Name of what a client keeps for a stage and a group, which also keys their random choices."""
    return f"stage-{place}/{group}"


def _shared_seed(name: str, key: MessageKey) -> int:
    """The seed of what all clients of a round and the server draw alike."""
    return derive_seed(key.seed, f"shared {name}", round=key.round)
