"""What example-level privacy goes with, what it costs, and what it says of itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fedfm.clients import LocalSettings
from fedfm.errors import RecipeError, StorageError
from fedfm.privacy import LocalPrivacy, PrivateSteps, statement
from fedfm.privacy.accounting import epsilon
from fedfm.privacy.client_ledger import ClientLedger, promise_line, steps_line
from fedfm.privacy.example_promise import ExamplePromise
from fedfm.privacy.private_steps import Spending
from fedfm.recipe import load_recipe
from tests.small import small_recipe

PRIVATE = {"kind": "local", "noise_multiplier": 1.0, "delta": 1e-3}


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return small_recipe(tmp_path, privacy=PRIVATE)


def refusals(values: dict[str, Any], **changes: Any) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(values | changes)
    return {problem.where: problem.message for problem in caught.value.problems}


LAYERS = {"kind": "layers", "strategy": "pro", "budget": 1}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "neither ε nor noise": ({"privacy": {"kind": "local"}}, "privacy", "privacy.epsilon"),
    "zeroth order": (
        {"protocol": {"kind": "fedkseed"}, "local": {"optimizer": "sgd", "max_grad_norm": None}},
        "privacy.kind",
        "clients only compare losses",
    ),
    "logits adjusted by all examples": (
        {"local": {"logit_adjustment": 1.0}},
        "privacy.kind",
        "adjusts each example's loss by the classes of all of them",
    ),
    "a weight by losses": ({"aggregate": {"rule": "q-fedavg"}}, "aggregate.rule", "there is no noise in them"),
    "layers by measured gradients": ({"select": LAYERS}, "select.kind", "there is no noise in them"),
    "an asynchronous protocol": ({"protocol": {"kind": "buffered", "size": 2}}, "privacy.kind", "protocol.kind"),
    "gossip": (
        {"protocol": {"kind": "gossip"}, "federation": {"clients": 6, "rounds": 2}},
        "privacy.kind",
        "every client takes part",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_breaks_the_promise_is_refused_with_the_reason(values: dict[str, Any], case: str) -> None:
    changes, where, words = REFUSED[case]
    found = refusals(values, **changes)
    assert where in found, found
    assert words in found[where]


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregate": {"rule": "mean", "weights": "examples"}},
        {"aggregate": {"rule": "median"}},
        {"aggregate": {"rule": "ffa"}},
        {"updates": [{"kind": "top-k", "share": 0.1}]},
        {"algorithm": {"name": "fedprox"}},
        {"algorithm": {"name": "scaffold"}, "local": {"optimizer": "sgd", "max_grad_norm": None}},
        {"federation": {"clients": 6, "per_round": 6}, "secure": {"kind": "secagg"}},
        {"tune": {"kind": "lora", "share": "head"}},
        {"protocol": {"kind": "hierarchical", "edges": 2}},
    ],
)
def test_what_follows_the_noise_is_accepted(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Trap 1 of four, weights that clients declare: here they act on updates that are private already."""
    assert load_recipe(values | changes).privacy == LocalPrivacy(**PRIVATE)


def promise(rounds: int = 4, batch_size: int = 10, **changes: Any) -> ExamplePromise:
    settings = LocalPrivacy.model_validate(PRIVATE | changes)
    return settings.examples(LocalSettings(batch_size=batch_size), rounds)


def test_a_client_composes_over_all_steps_of_all_its_rounds() -> None:
    steps = promise().at(100)
    assert steps == PrivateSteps(examples=100, steps=10, rate=0.1, noise_multiplier=1.0, clip=1.0)
    assert steps.expected == pytest.approx(10)
    found = promise().epsilon({steps.spending: 3})
    assert found == pytest.approx(epsilon("pld", 1.0, 0.1, ((1, 30),), 1e-3), rel=1e-3)
    assert promise().epsilon({}) == 0
    other = Spending(2.0, 0.1, 10)
    mixed = promise().epsilon({steps.spending: 3, other: 1})
    assert found < mixed < promise().epsilon({steps.spending: 4})


def test_a_client_smaller_than_a_batch_takes_all_its_examples() -> None:
    steps = promise().at(4)
    assert (steps.rate, steps.expected, steps.steps) == (1.0, 4, 1)


def test_every_client_chooses_its_noise_for_its_own_examples() -> None:
    """A small client draws each of its examples more often, and needs more noise for one ε."""
    found = promise(noise_multiplier=None, epsilon=3.0)
    small, large = found.at(20), found.at(200)
    assert small.noise_multiplier > large.noise_multiplier
    for steps in (small, large):
        assert 2.9 < found.epsilon({steps.spending: 4}) <= 3.0
        assert found.affords(Counter({steps.spending: 3}), steps)
        assert not found.affords(Counter({steps.spending: 4}), steps)  # a round that was played again costs too


def test_delta_must_be_below_one_over_the_examples() -> None:
    with pytest.raises(RecipeError, match=r"privacy\.delta: .*1 / 1000 examples"):
        promise().at(1000)
    assert promise().at(999)


def test_the_worst_client_decides() -> None:
    found = promise()
    spent = [Counter({found.at(size).spending: rounds}) for size, rounds in ((100, 4), (50, 4), (20, 1), (50, 2))]
    each = [found.epsilon(one) for one in spent]
    assert found.worst(spent) == (max(each), spent[each.index(max(each))])
    planned = found.planned([100, 50, 20, 0])
    assert planned["epsilon"] == found.epsilon({found.at(20).spending: 4})
    assert (planned["unit"], planned["rounds"], planned["steps"]) == ("example", 4, 8)
    assert found.planned([0, 0])["epsilon"] is None


def test_a_budget_ends_a_plan_early() -> None:
    found = promise(rounds=40, epsilon=4.0)
    planned = found.planned([50])
    steps = found.at(50)
    rounds = planned["rounds"]
    assert 0 < rounds < 40
    assert planned["epsilon"] == found.epsilon({steps.spending: rounds}) <= 4.0
    assert found.epsilon({steps.spending: rounds + 1}) > 4.0
    assert found.affords({steps.spending: rounds - 1}, steps)
    assert not found.affords({steps.spending: rounds}, steps)


def test_the_ledger_comes_back_as_it_was_written() -> None:
    found, steps = promise(), promise().at(100)
    lines = [promise_line(found), *(steps_line(client, number, steps) for client in "ab" for number in (1, 2))]
    ledger = ClientLedger.of([*lines, steps_line("a", 2, steps)])
    assert ledger.spent == {"a": {steps.spending: 3}, "b": {steps.spending: 2}}
    assert ledger.rounds["a"] == {1: 1, 2: 2}
    for damage in ({"kind": "other"}, lines[1] | {"rate": 0.0}, lines[1] | {"steps": None}, {"kind": "steps"}):
        with pytest.raises(StorageError, match=r"line 6 of privacy\.jsonl is damaged"):
            ClientLedger.of([*lines, damage])


def test_the_statement_is_about_examples() -> None:
    found = promise()
    figures = {"kind": "local", **found.figures([Counter({found.at(100).spending: 4})])}
    said = statement(figures)
    assert said.short == f"ε = {figures['epsilon']:.3g} (δ = 0.001, per example)"
    assert "40 steps in 4 rounds" in said.text
    assert "the server included" in said.limits
    page = " ".join(
        (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8").replace("\n> ", " ").split()
    )
    assert said.limits in page
    assert "numbers of examples" in statement({"epsilon": None, "delta": 1e-3, "unit": "example"}).short
