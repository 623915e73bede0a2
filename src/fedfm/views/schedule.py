"""Which tensors clients train in a round, where the aggregation rule says so.

A tensor that the rule does not train in a round is either sent with its current value, so that each client computes
with the server's, or it is fixed: it keeps its initial value, which both ends make themselves, and is never sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

from fedfm.spec import Spec
from fedfm.views.base import Slices, View


class Schedules(Protocol):
    """The part of a rule that says what is trained, as `fedfm.aggregation.Rule` defines it."""

    @property
    def period(self) -> int:
        """Rounds after which `trains` repeats."""
        ...

    def trains(self, spec: Spec, number: int) -> frozenset[str]:
        """Names of the tensors that clients train and return in a round."""
        ...

    def fixed(self, spec: Spec) -> frozenset[str]:
        """Names of tensors that keep their initial values."""
        ...


@dataclass(frozen=True)
class Schedule(View):
    """The tensors that a rule trains.

    Attributes:
        rule: says which.
        starts_alike: whether clients have the server's initial values. With a proxy they may draw others, since it has
            other layers; the server then sends what is fixed.
    """

    rule: Schedules
    starts_alike: bool = True

    @classmethod
    def of(cls, recipe: Any) -> Self | None:
        """The schedule of the recipe's rule, if it has one."""
        return cls(recipe.aggregate, not recipe.proxy.is_sent) if recipe.aggregate.schedules else None

    def gets(self, spec: Spec, client: str, number: int) -> Slices:
        """All that is not fixed."""
        fixed = self.fixed(spec)
        return dict.fromkeys([name for name in spec if name not in fixed], ())

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """What the rule trains in this round."""
        trained = self.rule.trains(spec, number) - self.rule.fixed(spec)
        return dict.fromkeys([name for name in spec if name in trained], ())

    def fixed(self, spec: Spec) -> frozenset[str]:
        """What the rule never trains, where clients have the same initial values."""
        return self.rule.fixed(spec) if self.starts_alike else frozenset()

    @property
    def period(self) -> int:
        """That of the rule."""
        return self.rule.period
