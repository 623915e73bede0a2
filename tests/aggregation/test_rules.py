"""What every rule must do, over the registry."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from fedfm.aggregation import RULES, Aggregation, Contribution, Fold, Rule
from fedfm.capabilities import LOW_RANK_FACTORS
from fedfm.params import Params, add, digest, zeros_like
from fedfm.spec import problem, spec_of
from fedfm.views import whole, widen

every_rule = pytest.mark.parametrize("name", RULES)
A, B, PRODUCT = "q.lora_A.weight", "q.lora_B.weight", "the product"


def effect(rule: Rule, params: Params, residual: Params | None = None) -> Params:
    """What tensors do to the model: a rule on pairs of factors may choose other factors with the same product."""
    if not rule.merges and LOW_RANK_FACTORS not in rule.needs:
        return params
    product = params[B] @ params[A]
    if residual:
        product = product + residual[B] @ residual[A]
    return {**{name: tensor for name, tensor in params.items() if name not in (A, B)}, PRODUCT: product}


def outcome(rule: Rule, fold: Fold, params: Params) -> Params:
    """What the new values do to the model, with what the rule adds to the frozen weights."""
    step = fold.result()
    assert problem(step, spec_of(params)) is None
    after = add(params, step)
    return effect(rule, after, fold.residual(after))


def trained(rule: Rule, update: Params, number: int) -> Params:
    """The part of an update that clients return in a round."""
    names = rule.trains(spec_of(update), number)
    return {name: tensor for name, tensor in update.items() if name in names}


def referred(rule: Rule, fold: Fold, update: Params) -> Fold:
    """The fold with an update of the server's own, where the rule asks for one."""
    if rule.trains_root:
        fold.refer({name: update.get(name, torch.zeros_like(tensor)) for name, tensor in tensors(0).items()})
    return fold


def tensors(seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"q.lora_A.weight": (2, 5), "q.lora_B.weight": (4, 2), "head.bias": (3,), "scalar": (), "none": (0, 2)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@every_rule
def test_registry_and_schema_agree(name: str) -> None:
    assert type(TypeAdapter(Aggregation).validate_python({"rule": name})) is RULES[name]


@every_rule
@pytest.mark.parametrize("number", [1, 2])
def test_identical_updates_are_returned_and_no_argument_is_changed(name: str, number: int) -> None:
    rule = RULES[name]().in_round(number)
    params, update = tensors(0), trained(rule, tensors(1), number)
    before = digest(params), digest(update)
    fold = rule.start(spec_of(params), params)
    for client in range(max(4, rule.least)):
        fold.add(update, Contribution(str(client), 3 + 5 * client % 4, 1), whole(spec_of(update)))
    expected = effect(rule, {**params, **add({name: params[name] for name in update}, update)})
    for key, tensor in outcome(rule, referred(rule, fold, update), params).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=2e-6)
    assert (digest(params), digest(update)) == before


@every_rule
def test_a_copy_counts_as_often_as_it_was_drawn(name: str) -> None:
    rule, params, found = RULES[name](), tensors(0), []
    more = rule.least  # of the second client
    for clients in ({1: 2, 2: more}.items(), [(1, 1), (1, 1), *[(2, 1)] * more]):
        fold = rule.start(spec_of(params), params)
        for seed, copies in clients:
            update = trained(rule, tensors(seed), 1)
            fold.add(update, Contribution(str(seed), 4, 1, copies=copies), whole(spec_of(update)))
        found.append(outcome(rule, referred(rule, fold, tensors(1)), params))
    for key, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][key], rtol=1e-5, atol=2e-6)


@every_rule
def test_a_coordinate_that_no_client_holds_does_not_move(name: str) -> None:
    rule, params, update = RULES[name](), tensors(0), tensors(1)
    fold = rule.start(spec_of(params), params)
    held = {A: (slice(1),), B: (slice(None), slice(1))}
    part = trained(rule, {A: update[A][:1], B: update[B][:, :1]}, 1)
    held = {key: index for key, index in held.items() if key in part}
    for client in range(max(2, rule.least)):
        fold.add(part, Contribution(str(client), 4, 1), held)
    if rule.trains_root:
        fold.refer(widen(part, held, zeros_like(params)))
    found = fold.result()
    assert not found["head.bias"].any()
    if B in fold.replaced():
        return
    product = (params[B][:, :1] + part[B]) @ (params[A][:1] + part.get(A, torch.zeros(1, 5)))
    if rule.merges:  # what it does to the factors, it undoes in the frozen weights
        after = add(params, found)
        torch.testing.assert_close(effect(rule, after, fold.residual(after))[PRODUCT], product)
        return
    assert not found[A][1:].any()
    assert not found[B][:, 1:].any()
    if LOW_RANK_FACTORS not in rule.needs:
        torch.testing.assert_close(found[B][:, :1], part[B])
        return
    a, b = (params[key] + found[key] for key in (A, B))
    torch.testing.assert_close(b[:, :1] @ a[:1], product, rtol=1e-5, atol=2e-6)


@every_rule
def test_no_updates_are_an_error(name: str) -> None:
    params = tensors(0)
    with pytest.raises(ValueError, match="no updates"):
        RULES[name]().start(spec_of(params), params).result()


@every_rule
def test_what_a_rule_trains_is_in_the_tunable_and_nothing_of_it_is_fixed(name: str) -> None:
    rule, spec = RULES[name](), spec_of(tensors(0))
    rounds = [rule.trains(spec, number) for number in range(1, 7)]
    assert rounds[: rule.period] * (6 // rule.period) == rounds
    assert all(names and names <= spec.keys() for names in rounds)
    assert frozenset().union(*rounds).isdisjoint(rule.fixed(spec))
    assert rule.schedules == (any(names != spec.keys() for names in rounds) or bool(rule.fixed(spec)))


@every_rule
def test_initial_values_are_those_of_the_seed_and_have_the_spec(name: str) -> None:
    params = tensors(0)
    first, second = (RULES[name]().initial(dict(params), 3) for _ in range(2))
    assert digest(first) == digest(second)
    assert problem(first, spec_of(params)) is None
    assert digest(params) == digest(tensors(0))
