"""`fedfm check` proposes to keep one factor as drawn where both would get noise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedfm.aggregation import RULES
from fedfm.models.tunables import BitFit, Lora
from fedfm.privacy import Central, NoPrivacy, Promise
from fedfm.server.advice.noisy_factors import noisy_factors
from fedfm.spec import TensorSpec

SPEC = {"q.lora_A.weight": TensorSpec((2, 8)), "q.lora_B.weight": TensorSpec((8, 2)), "head.weight": TensorSpec((2, 8))}
PROMISE = Promise("client", 1e-3, 1.0, 0.1, 10.0)


def advice(rule: str = "mean", tune: Any = None, promise: Promise | None = PROMISE) -> Any:
    privacy = Central(noise_multiplier=1.0) if promise else NoPrivacy()
    recipe = SimpleNamespace(aggregate=RULES[rule](), tune=tune or Lora(), privacy=privacy)
    experiment = SimpleNamespace(contract=SimpleNamespace(spec=SPEC), promise=promise, example_promise=None)
    facts: Any = SimpleNamespace(experiment=experiment, recipe=recipe)
    return noisy_factors(facts)


def test_a_mean_of_both_factors_is_advised_against() -> None:
    found = advice()
    assert found.where == "aggregate.rule"
    assert "`ffa` keeps A as drawn" in found.text


@pytest.mark.parametrize("rule", ["ffa", "fedsvd", "rolora"])
def test_rules_that_train_one_factor_are_fine(rule: str) -> None:
    assert advice(rule) is None


def test_without_noise_or_factors_nothing_is_said() -> None:
    assert advice(promise=None) is None
    assert advice(tune=BitFit()) is None
