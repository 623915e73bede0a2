from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedfm.errors import RecipeError
from fedfm.proxies import PROXIES
from fedfm.recipe import Recipe, load_recipe
from fedfm.recipe.fields import all_keys
from fedfm.recipe.index import checked_keys
from fedfm.recipe.overrides import apply_overrides
from fedfm.recipe.problems import explain, overlap
from fedfm.settings import Settings
from fedfm.tasks import TASKS


def problems(values: dict[str, Any], *overrides: str) -> dict[str, tuple[str, str | None]]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(values, overrides)
    found = {problem.where: (problem.message, problem.got) for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), "one problem a key"
    return found


ALPHA = "not a setting of this kind; it belongs to dirichlet, quantity"


KINDS = ", ".join(PROXIES)


@pytest.mark.parametrize(
    ("override", "where", "message", "got"),
    [
        ("tune.rr=8", "tune.rr", "unknown key — did you mean `r`?", "8"),
        ("privcy={}", "privcy", "unknown key — did you mean `privacy`?", "{}"),
        ("learning_rate=1e-3", "learning_rate", "unknown key — it belongs under `local`", "0.001"),
        ("local.seed=1", "local.seed", "unknown key — it belongs at the top of the recipe", "1"),
        ("lr=0.1", "lr", "unknown key — did you mean `local.learning_rate`?", "0.1"),
        ("data.num_rounds=1", "data.num_rounds", "unknown key — did you mean `federation.rounds`?", "1"),
        ("max_grad_nrom=1", "max_grad_nrom", "unknown key — did you mean `local.max_grad_norm`?", "1"),
        ("checkpoint.zzz=1", "checkpoint.zzz", "unknown key; known here: every, keep", "1"),
        ("algorithm.mu=1", "algorithm.mu", "not a setting of this kind; it belongs to fedprox", "1"),
        ("federation.clients=0", "federation.clients", "must be ≥ 1", "0"),
        ("federation.clients=ten", "federation.clients", "must be a whole number", '"ten"'),
        ("federation.clients=1.5", "federation.clients", "must be a whole number", "1.5"),
        ("federation.clients=true", "federation.clients", "must be a whole number", "true"),
        ("federation.quorum=1.5", "federation.quorum", "must be ≤ 1", "1.5"),
        ("federation.holdout=1", "federation.holdout", "must be < 1", "1"),
        ("local.optimizer=adam", "local.optimizer", "must be one of adamw, sgd — did you mean `adamw`?", '"adam"'),
        ("local.learning_rate=0", "local.learning_rate", "must be > 0", "0"),
        ("local.learning_rate=fast", "local.learning_rate", "must be a number", '"fast"'),
        ("local.learning_rate=.inf", "local.learning_rate", "must be a finite number", "Infinity"),
        ("local.learning_rate=.nan", "local.learning_rate", "must be a finite number", "NaN"),
        ("allow_network=yes", "allow_network", "must be true or false", '"yes"'),
        ("name=2024", "name", "must be text: put it in quotes", "2024"),
        ("name=[a]", "name", "must be text", '["a"]'),
        ("data.labels=cat", "data.labels", "must be a list, such as [a, b]", '"cat"'),
        ("data.csv.delimiter=ab", "data.csv.delimiter", "must be one character, not a line break", '"ab"'),
        ("data.train=[]", "data.train", "must be text, or must have at least 1 entries", "[]"),
        ("data.text=[a, b, c]", "data.text", "must have at most 2 entries", '["a", "b", "c"]'),
        ("data.text=[a, 1]", "data.text[1]", "must be text: put it in quotes", "1"),
        (
            "data.test=1.5",
            "data.test",
            "must be text: put it in quotes, or must be a list, such as [a, b], or must be < 1",
            "1.5",
        ),
        ("model=bert", "model", "must be a group of keys, such as `model: {path: …}`", '"bert"'),
        ("local=null", "local", "must be a group of keys, such as `local: {epochs: …}`", "null"),
        ("tune=lora", "tune", "must be a group of keys, such as `tune: {kind: lora}`", '"lora"'),
        ("proxy.kind=fedfpt", "proxy.kind", f"must be one of {KINDS} — did you mean `fedpft`?", '"fedfpt"'),
        ("tune.kind=lorra", "tune.kind", None, '"lorra"'),
        ("proxy={kind: fedpft, bits: {ffn: 16}}", "proxy.bits.ffn", "must be one of 4, 8", "16"),
        ("updates=[{kind: quantize, bits: 3}]", "updates[0].bits", "must be 8", "3"),
        ("federation.partition={alpha: 1}", "federation.partition.kind", None, None),
        ("federation.partition={kind: dirichlet, alpha: 0}", "federation.partition.alpha", "must be > 0", "0"),
        ("federation.partition={kind: iid, alpha: 1}", "federation.partition.alpha", ALPHA, "1"),
    ],
)  # fmt: skip
def test_a_faulty_key(values: dict[str, Any], override: str, where: str, message: str | None, got: str | None) -> None:
    found = problems(values, override)
    assert set(found) == {where}
    try:
        checked_keys(apply_overrides(values, [override]))
        early = {}
    except RecipeError as error:
        early = {fault.where: (fault.message, fault.got) for fault in error.problems}
    assert early.items() <= found.items(), "the index says what the classes say, or leaves it to them"


@pytest.mark.parametrize("per_round", [0, -1, 1.0, 0.0, 1.5, True, "ten", [3]])
def test_clients_a_round_are_a_count_or_a_fraction(values: dict[str, Any], per_round: Any) -> None:
    values["federation"] = {"per_round": per_round}
    found = problems(values)
    assert found["federation.per_round"][0].startswith("must be a count")


def test_kinds_are_listed_with_the_nearest(values: dict[str, Any]) -> None:
    message, got = problems(values, "tune.kind=lorra")["tune.kind"]
    assert message.startswith("must be one of lora, dora, lora-sb")
    assert message.endswith("did you mean `lora`?")
    assert got == '"lorra"'
    assert problems(values, "federation.partition={alpha: 1}")["federation.partition.kind"] == (
        "is required: iid, dirichlet, shards, quantity, column, tasks",
        None,
    )


def test_missing_keys_say_what_they_are_for() -> None:
    found = problems({"task": {}})
    assert set(found) == {"name", "model", "task.kind", "data"}
    assert found["task.kind"] == (f"is required: {', '.join(TASKS)}", None)


def test_b01_everything_is_told_at_once(values: dict[str, Any]) -> None:
    """Features to come, faulty keys, and conflicts between the keys that are sound."""
    values |= {
        "report_to": ["wandb"],
        "local": {"epochs": 0, "batchsize": 8},
        "federation": {"clients": 5, "per_round": 6},
        "evaluate": {"metrics": ["acuracy"]},
    }
    assert set(problems(values)) == {
        "report_to[0]",
        "local.epochs",
        "local.batchsize",
        "federation.per_round",
        "evaluate.metrics",
    }


def test_a_faulty_key_hides_the_conflicts_that_it_has_a_part_in(values: dict[str, Any]) -> None:
    values["federation"] = {"clients": 0, "per_round": 20}  # without `clients` there would be 10
    assert set(problems(values)) == {"federation.clients"}


def test_long_values_are_shortened(values: dict[str, Any]) -> None:
    _, got = problems(values, f"seed={'x' * 500}")["seed"]
    assert got is not None
    assert len(got) < 80


def test_errors_without_words_of_ours_keep_their_own() -> None:
    class Group(Settings):
        size: Decimal

    values = {"size": "{"}
    with pytest.raises(ValidationError) as caught:
        Group.model_validate(values)
    (problem,) = explain(caught.value, Group, values)
    assert (problem.where, problem.got) == ("size", '"{"')
    assert "Decimal" in problem.message


def test_an_exploding_value_is_told_quickly(values: dict[str, Any]) -> None:
    assert problems(values | {"zzz": [[0] * 100_000]})


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("a.b", "a", True), ("a", "a[0]", True), ("a.b", "a.bc", False), ("a", "a", True), ("b.a", "a", False)],
)
def test_overlap(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected


KEYS = sorted({key.name for key in all_keys(Recipe)} | {"lora", "fedavg", "x", "0", ""})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_whatever_comes_in_leaves_as_problems(values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(values)
    assert caught.value.problems
    assert all(problem.message for problem in caught.value.problems)


@given(JSON, st.sampled_from([f"{key.group}.{key.name}".lstrip(".") for key in all_keys(Recipe)]))
def test_whatever_a_single_key_holds_is_taken_or_refused(value: Any, where: str) -> None:
    values: dict[str, Any] = {
        "name": "test",
        "model": {"path": "m"},
        "task": {"kind": "text-classification"},
        "data": {"train": "a.jsonl", "test": "b.jsonl"},
    }
    *groups, key = where.split(".")
    group = values
    for name in groups:
        group = group.setdefault(name, {})
    group[key] = value
    with suppress(RecipeError):
        load_recipe(values)
