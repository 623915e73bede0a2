"""The view of a rule that trains some of the tensors: with a rule from outside of fedfm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Literal

from fedfm.aggregation import Mean, Rule
from fedfm.spec import Spec, TensorSpec
from fedfm.views import Ranks, Schedule, Views, is_whole

SPEC: Spec = {"a": TensorSpec((2, 5)), "b": TensorSpec((4, 2)), "c": TensorSpec((3,)), "d": TensorSpec(())}


class Turns(Rule):
    """Trains b, then c, then neither; never a."""

    rule: Literal["turns"] = "turns"
    """Trains b, then c, then neither."""
    period: ClassVar[int] = 3

    def trains(self, spec: Spec, number: int) -> frozenset[str]:
        return frozenset({"d", "abc"[number % 3]})

    def fixed(self, spec: Spec) -> frozenset[str]:
        return frozenset({"a"})


def recipe(rule: Rule, *, sent: bool = False) -> Any:
    return SimpleNamespace(aggregate=rule, proxy=SimpleNamespace(is_sent=sent))


def test_a_rule_that_trains_everything_needs_no_view() -> None:
    assert Schedule.of(recipe(Mean())) is None


def test_a_client_gets_all_but_what_is_fixed_and_returns_what_is_trained() -> None:
    view = Schedule.of(recipe(Turns()))
    assert view is not None
    assert [view.gets(SPEC, "x", number).keys() for number in (1, 2, 3)] == [{"b", "c", "d"}] * 3
    assert [view.held(SPEC, "x", number).keys() for number in (1, 2, 3)] == [{"b", "d"}, {"c", "d"}, {"d"}]
    assert view.fixed(SPEC) == {"a"}
    assert not any(view.gets(SPEC, "x", 1).values())
    assert not is_whole(view.gets(SPEC, "x", 1), SPEC)


def test_with_a_proxy_what_is_fixed_is_sent_since_its_initial_values_may_differ() -> None:
    view = Schedule.of(recipe(Turns(), sent=True))
    assert view is not None
    assert is_whole(view.gets(SPEC, "x", 1), SPEC)
    assert view.held(SPEC, "x", 3).keys() == {"d"}, "a is not trained"
    assert view.fixed(SPEC) == set()


def test_views_repeat_when_all_of_them_do() -> None:
    class Four(Turns):
        period: ClassVar[int] = 4

    views = Views((Schedule(Turns()), Schedule(Four()), Ranks((2,))))
    assert views.period == 12
    assert views.fixed(SPEC) == {"a"}
