"""What every rule must do, over the registry."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from fedfm.aggregation import RULES, Aggregation, Contribution, Fold
from fedfm.params import Params, add, digest
from fedfm.spec import problem, spec_of
from fedfm.views import whole

every_rule = pytest.mark.parametrize("name", RULES)


def tensors(seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"q.lora_A.weight": (2, 5), "q.lora_B.weight": (4, 2), "head.bias": (3,), "scalar": (), "none": (0, 2)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


A, B, PRODUCT = "q.lora_A.weight", "q.lora_B.weight", "the product"


def outcome(fold: Fold, params: Params, *, merges: bool) -> Params:
    """The new values; where a rule adds to frozen weights, the whole product B·A in place of its factors."""
    step = fold.result()
    assert problem(step, spec_of(params)) is None
    after = add(params, step)
    return product_of(after, fold.residual(after)) if merges else after


def product_of(params: Params, residual: Params) -> Params:
    """Values with the product of the factors in their place."""
    product = params[B] @ params[A]
    if residual:
        product = product + residual[B] @ residual[A]
    return {**{name: value for name, value in params.items() if name not in (A, B)}, PRODUCT: product}


@every_rule
def test_registry_and_schema_agree(name: str) -> None:
    assert type(TypeAdapter(Aggregation).validate_python({"rule": name})) is RULES[name]


@every_rule
def test_identical_updates_are_returned_and_no_argument_is_changed(name: str) -> None:
    params, update = tensors(0), tensors(1)
    before = digest(params), digest(update)
    fold = RULES[name]().start(spec_of(params), params)
    for client, examples in enumerate((3, 8, 5, 1)):
        fold.add(update, Contribution(str(client), examples, 1), whole(spec_of(update)))
    merges, trained = RULES[name]().merges, add(params, update)
    expected = product_of(trained, {}) if merges else trained
    for key, tensor in outcome(fold, params, merges=merges).items():
        torch.testing.assert_close(tensor, expected[key])
    assert (digest(params), digest(update)) == before


@every_rule
def test_a_copy_counts_as_often_as_it_was_drawn(name: str) -> None:
    params, found = tensors(0), []
    for times in ((2, 1), (1, 1, 1)):
        fold = RULES[name]().start(spec_of(params), params)
        for seed, copies in zip((1, 2) if len(times) == 2 else (1, 1, 2), times, strict=True):
            fold.add(tensors(seed), Contribution(str(seed), 4, 1, copies=copies), whole(spec_of(params)))
        found.append(outcome(fold, params, merges=RULES[name]().merges))
    for key, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][key])


@every_rule
def test_a_coordinate_that_no_client_holds_does_not_move(name: str) -> None:
    params, update = tensors(0), tensors(1)
    fold = RULES[name]().start(spec_of(params), params)
    held = {"q.lora_A.weight": (slice(1),), "q.lora_B.weight": (slice(None), slice(1))}
    part = {"q.lora_A.weight": update["q.lora_A.weight"][:1], "q.lora_B.weight": update["q.lora_B.weight"][:, :1]}
    for client in "ab":
        fold.add(part, Contribution(client, 4, 1), held)
    found = fold.result()
    assert not found["head.bias"].any()
    if RULES[name]().merges:  # what it does to the factors, it undoes in the frozen weights
        trained = params[B][:, :1] + part[B], params[A][:1] + part[A]
        after = add(params, found)
        torch.testing.assert_close(product_of(after, fold.residual(after))[PRODUCT], trained[0] @ trained[1])
        return
    torch.testing.assert_close(found["q.lora_B.weight"][:, :1], part["q.lora_B.weight"])
    assert not found["q.lora_A.weight"][1:].any()
    assert not found["q.lora_B.weight"][:, 1:].any()


@every_rule
def test_no_updates_are_an_error(name: str) -> None:
    params = tensors(0)
    with pytest.raises(ValueError, match="no updates"):
        RULES[name]().start(spec_of(params), params).result()
