"""Tripwire ``moved``: what should train has other values after the first rounds (huggingface/peft#1402)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fedfm.models.frozen import named
from fedfm.params import Params
from fedfm.records.ledger import LAYER
from fedfm.server.tripwires.base import Finding, Tripwire

if TYPE_CHECKING:
    from fedfm.server.rounds.state import RunState

ROUNDS = 2
"""Rounds after which every kind of tensor must have moved: methods that alternate train each in every second round."""


class Moved(Tripwire):
    """Compares the tunable with its start, after round 1 and, unless all has moved then, after round 2.

    A run in which no tensor moved ends. One in which tensors of some kind stay as they began in all layers, such as all
    `lora_B`, goes on with a warning. Tensors that the recipe's rule fixes are left out. With stages of ``updates`` it
    is no warning, since stages may send only the largest values.
    """

    name = "moved"
    _done = False

    def played(self, state: RunState, delivered: Callable[[], Params]) -> Finding | None:
        """What did not move, once that is certain."""
        last = min(ROUNDS, self.experiment.recipe.federation.rounds)
        if self._done or state.round > last:
            return None
        moved, still = self._compare(delivered())
        if still and state.round < last:
            return None
        self._done = True
        return self._finding(state.round, moved, still)

    def _compare(self, now: Params) -> tuple[int, dict[str, int]]:
        """How many tensors moved; and kind of tensors that did not move in any layer → their number."""
        contract, kinds = self.experiment.contract, dict[str, list[bool]]()
        left_out = {*contract.fixed}
        if self.experiment.data.training is None:  # a site never sends personal tensors
            left_out |= {*contract.personal}
        for name, tensor in now.items():
            if name not in left_out:
                kinds.setdefault(LAYER.sub("*", name), []).append(not tensor.equal(contract.start[name]))
        moved = sum(map(sum, kinds.values()))
        return moved, {kind: len(found) for kind, found in kinds.items() if not any(found)}

    def _finding(self, number: int, moved: int, still: dict[str, int]) -> Finding:
        tensors = moved + sum(still.values())
        if not moved:
            return Finding(
                f"after round {number} none of the {tensors} tensors that `tune` trains has moved from its initial "
                "value: nothing is learned. Look at local.learning_rate, algorithm.server_lr and tune, and start a new "
                "run",
                sound=False,
                ends=True,
            )
        if still and self.experiment.recipe.updates:
            return Finding(
                f"after round {number} tensors that `tune` trains are as they began, in all layers: "
                f"{named(sorted(still))}; stages of `updates` may have left them out",
                sound=None,
            )
        if still:
            return Finding(
                f"after round {number} tensors that `tune` trains are as they began, in all layers: "
                f"{named(sorted(still))}. If the method does not freeze them on purpose, look at local.learning_rate "
                "and tune",
                sound=False,
            )
        return Finding(f"every kind of tensor that `tune` trains has moved after round {number}")
