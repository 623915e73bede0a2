"""What choices need, give and take, tested with methods from outside of fedfm."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from fedfm import capabilities, registry
from fedfm.algorithms import Algorithm
from fedfm.capabilities import LOW_RANK_FACTORS, ONE_MODEL, SGD, UNLESS_TAKEN
from fedfm.errors import RecipeError
from fedfm.models.tunables import TuneSettings
from fedfm.recipe import Recipe, load_recipe
from fedfm.recipe.capabilities import PLAIN_KEYS
from fedfm.recipe.fields import all_keys
from fedfm.settings import Capabilities


class Variance(Algorithm):
    """Needs plain steps."""

    needs = {SGD: "it divides by K·η"}
    name: Literal["variance"] = "variance"
    """Needs plain steps."""


class Factors(Algorithm):
    """Needs factors, and what no method gives where it is asked to."""

    name: Literal["factors"] = "factors"
    """Needs factors."""
    impossible: bool = False
    """Also needs what no method gives."""

    def capabilities(self) -> Capabilities:
        more = {"a rainbow": "it is pretty"} if self.impossible else {}
        return Capabilities({LOW_RANK_FACTORS: "it multiplies them", **more}, frozenset(), {})


class Own(TuneSettings):
    """Takes what another needs."""

    takes = {ONE_MODEL: "each client has its own"}
    kind: Literal["own"] = "own"
    """Takes what another needs."""


class Shared(Algorithm):
    """Needs one model."""

    needs = {ONE_MODEL: "it averages it"}
    name: Literal["shared"] = "shared"
    """Needs one model."""


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_GIVEN", {})


def refusals(values: dict[str, Any], *overrides: str, **methods: Any) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(values, overrides, **methods)
    return {problem.where: problem.message for problem in caught.value.problems}


PLAIN = ("local.optimizer=sgd", "local.max_grad_norm=null")


def test_a_need_that_keys_take_names_all_of_them(values: dict[str, Any]) -> None:
    (message,) = refusals(values, algorithm=Variance()).values()
    assert message == (
        "`variance` needs sgd: it divides by K·η. "
        "`local.optimizer: adamw` excludes that: its steps are not multiples of the gradient; set local.optimizer=sgd; "
        "`local.max_grad_norm: 1.0` excludes that: a clipped gradient is scaled; set local.max_grad_norm=null"
    )
    assert "`local.max_grad_norm: 1.0`" in refusals(values, PLAIN[0], algorithm=Variance())["algorithm.name"]
    assert load_recipe(values, PLAIN, algorithm=Variance()).algorithm == Variance()


def test_a_need_that_a_kind_gives_names_the_kinds(values: dict[str, Any]) -> None:
    assert load_recipe(values, algorithm=Factors()).tune.kind == "lora"
    (message,) = refusals(values, "tune.kind=head", algorithm=Factors()).values()
    assert message == "`factors` needs low-rank factors: it multiplies them. `tune.kind` gives that with lora or dora"


def test_a_need_that_nothing_gives_is_refused(values: dict[str, Any]) -> None:
    assert (
        "No method that is installed gives that"
        in refusals(values, algorithm=Factors(impossible=True))["algorithm.name"]
    )


def test_two_methods_from_outside_exclude_each_other(values: dict[str, Any]) -> None:
    message = refusals(values, algorithm=Shared(), tune=Own())["algorithm.name"]
    assert (
        message == "`shared` needs one model: it averages it. `tune.kind: own` excludes that: each client has its own"
    )


def test_a_faulty_key_hides_the_need_that_it_decides(values: dict[str, Any]) -> None:
    """Without `local.optimizer` the recipe has another one, which nobody chose."""
    assert set(refusals(values, "local.optimizer=adam", "local.max_grad_norm=null", algorithm=Variance())) == {
        "local.optimizer"
    }
    assert set(refusals(values, "tune.kind=lorra", algorithm=Factors())) == {"tune.kind"}


def test_each_word_is_explained_and_used_by_plain_keys_that_exist() -> None:
    words = {value for name, value in vars(capabilities).items() if name.isupper() and isinstance(value, str)}
    assert words > UNLESS_TAKEN
    assert {word for key in PLAIN_KEYS for word in (*key.needs, *key.takes)} <= words
    assert {key.where for key in PLAIN_KEYS} <= {key.where for key in all_keys(Recipe)}
