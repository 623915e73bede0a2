"""Rules on pairs of factors against numpy on the dense products, and against peft's own merged weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from fedfm.aggregation import RULES, Contribution, FedRot, FedSvd, FfaLora, FlexLora, LoraFair, Mean, RoLora, Rule
from fedfm.aggregation.lora import AggregationError
from fedfm.aggregation.lora.fedrot import rotation, softened
from fedfm.capabilities import LOW_RANK_FACTORS
from fedfm.params import Params, add
from fedfm.spec import spec_of
from fedfm.views import Ranks, Slices, holds, narrow

MODULES = {"q": (20, 30), "conv": (6, 3, 2, 2)}
"""Shape of W; of the convolution, kernel sizes last."""
RANK = 4
EXAMPLES = (3, 8, 5, 1, 6)
SHARES = np.array(EXAMPLES) / sum(EXAMPLES)
ON_PRODUCTS = [name for name in RULES if LOW_RANK_FACTORS in RULES[name]().needs]


def tunable() -> Params:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "q.lora_A.weight": (RANK, 30),
        "q.lora_B.weight": (20, RANK),
        "conv.lora_A.weight": (RANK, 3, 2, 2),
        "conv.lora_B.weight": (6, RANK, 1, 1),
        "classifier.bias": (3,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def updates(rule: Rule, params: Params, number: int = 1, *, size: float = 0.3) -> list[Params]:
    names = rule.trains(spec_of(params), number)
    found = []
    for client in range(len(EXAMPLES)):
        generator = torch.Generator().manual_seed(100 + client)
        drawn = {name: size * torch.randn(tensor.shape, generator=generator) for name, tensor in params.items()}
        found.append({name: tensor for name, tensor in drawn.items() if name in names})
    return found


def folded(
    rule: Rule, params: Params, of: Sequence[Params], slices: Sequence[Slices] | None = None
) -> tuple[Params, float | None]:
    """The tunable after the rule, and its error."""
    fold, error = rule.start(spec_of(params), params), AggregationError(spec_of(params), params)
    for client, (update, examples) in enumerate(zip(of, EXAMPLES, strict=True)):
        held = slices[client] if slices else dict.fromkeys(update, ())
        contribution = Contribution(str(client), examples, 1)
        fold.add(update, contribution, held)
        error.add(update, contribution, held, rule.weight)
    change = fold.result()
    return add(params, change), error.of(change, fold.replaced())


def product(params: Mapping[str, Tensor], module: str) -> np.ndarray:
    a, b = (params[f"{module}.lora_{factor}.weight"].double().flatten(1).numpy() for factor in "AB")
    return b @ a


def mean_product(params: Params, of: Sequence[Params], module: str) -> np.ndarray:
    trained = [{**params, **add({name: params[name] for name in update}, update)} for update in of]
    return np.sum([share * product(each, module) for share, each in zip(SHARES, trained, strict=True)], axis=0)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def lost_by_rank(matrix: np.ndarray, rank: int) -> float:
    """What the best matrix of a rank loses of one, relative to it."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return float(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()))


@pytest.mark.parametrize(("rule", "number"), [(FfaLora(), 1), (RoLora(), 1), (RoLora(), 2), (FedSvd(), 1)])
def test_the_mean_of_one_factor_is_the_mean_of_the_products(rule: Rule, number: int) -> None:
    params = tunable()
    of = updates(rule, params, number)
    found, error = folded(rule, params, of)
    for module in MODULES:
        assert relative(product(found, module), mean_product(params, of, module)) < 1e-6
    assert error is not None
    assert error < 1e-6


def test_ffa_keeps_a_and_rolora_moves_the_factors_in_turns() -> None:
    params, names = tunable(), spec_of(tunable())
    b_and_head = {"q.lora_B.weight", "conv.lora_B.weight", "classifier.bias"}
    a_and_head = {"q.lora_A.weight", "conv.lora_A.weight", "classifier.bias"}
    assert FfaLora().fixed(names) == names.keys() - b_and_head
    assert [FfaLora().trains(names, number) for number in (1, 2)] == [b_and_head] * 2
    assert [RoLora().trains(names, number) for number in (1, 2, 3)] == [b_and_head, a_and_head, b_and_head]
    assert RoLora().fixed(names) == FedSvd().fixed(names) == set()
    found, _ = folded(RoLora(), params, updates(RoLora(), params, 2))
    assert torch.equal(found["q.lora_B.weight"], params["q.lora_B.weight"])
    assert not torch.equal(found["q.lora_A.weight"], params["q.lora_A.weight"])


def test_flexlora_gives_the_best_factors_of_its_rank() -> None:
    params = tunable()
    of = updates(FlexLora(), params)
    found, error = folded(FlexLora(), params, of)
    lost, whole = 0.0, 0.0
    for module in MODULES:
        mean = mean_product(params, of, module)
        best = lost_by_rank(mean, RANK)
        assert relative(product(found, module), mean) == pytest.approx(best, abs=1e-6)
        lost, whole = lost + (best * np.linalg.norm(mean)) ** 2, whole + np.linalg.norm(mean) ** 2
    assert error == pytest.approx((lost / whole) ** 0.5, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_flexlora_gives_each_client_the_best_factors_of_its_rank(rank: int) -> None:
    params = tunable()
    of = updates(FlexLora(), params)
    found, _ = folded(FlexLora(), params, of)
    leading = narrow(found, Ranks((rank,)).held(spec_of(params), "c", 1))
    for module in MODULES:
        mean = mean_product(params, of, module)
        assert relative(product(leading, module), mean) == pytest.approx(lost_by_rank(mean, rank), abs=1e-6)


def test_flexlora_adds_up_clients_of_unlike_ranks_and_keeps_spare_ranks_trainable() -> None:
    params = tunable()
    ranks = (1, 2, 1, 2, 1)
    slices = [Ranks((rank,)).held(spec_of(params), str(client), 1) for client, rank in enumerate(ranks)]
    of = [narrow(update, held) for update, held in zip(updates(FlexLora(), params), slices, strict=True)]
    found, error = folded(FlexLora(), params, of, slices)
    for module in MODULES:
        parts = [add(narrow(params, held), update) for update, held in zip(of, slices, strict=True)]
        mean = np.sum([share * product(part, module) for share, part in zip(SHARES, parts, strict=True)], axis=0)
        assert relative(product(found, module), mean) == pytest.approx(lost_by_rank(mean, RANK), abs=1e-6)
    assert error is not None
    alone, _ = folded(FlexLora(), params, [of[0]] * 5, [slices[0]] * 5)  # rank 1 of 4
    assert not alone["q.lora_B.weight"][:, 1:].any()
    assert torch.equal(alone["q.lora_A.weight"][1:], params["q.lora_A.weight"][1:])


def test_fedsvd_makes_a_orthonormal_and_stays_in_its_rows() -> None:
    rule = FedSvd()
    params = rule.initial(tunable(), 0)
    first = params["q.lora_A.weight"].double()
    np.testing.assert_allclose((first @ first.T).numpy(), np.eye(RANK), atol=1e-6)
    found, _ = folded(rule, params, updates(rule, params))
    a, b = found["q.lora_A.weight"].double(), found["q.lora_B.weight"].double()
    np.testing.assert_allclose((a @ a.T).numpy(), np.eye(RANK), atol=1e-6)
    lengths = b.norm(dim=0)
    assert (lengths.diff() < 0).all(), "the first ranks carry most"
    np.testing.assert_allclose((b.T @ b).numpy(), np.diag(lengths.numpy() ** 2), atol=1e-4)
    np.testing.assert_allclose((a @ first.T @ first).numpy(), a.numpy(), atol=1e-6)


def test_an_orthonormal_a_spans_what_the_drawn_one_spans() -> None:
    params = tunable()
    found = FfaLora(initial_a="orthonormal").initial(params, 0)
    drawn, made = (of["conv.lora_A.weight"].double().flatten(1).numpy() for of in (params, found))
    np.testing.assert_allclose(made @ made.T, np.eye(RANK), atol=1e-6)
    np.testing.assert_allclose(drawn @ made.T @ made, drawn, atol=1e-5)
    assert made[0] @ drawn[0] > 0
    assert torch.equal(found["q.lora_B.weight"], params["q.lora_B.weight"])
    assert FfaLora().initial(params, 0) is params


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_lora_fair_solves_its_ridge_regression(ridge: float) -> None:
    params, rule = tunable(), LoraFair(ridge=ridge)
    of = updates(rule, params)
    found, _ = folded(rule, params, of)
    plain, _ = folded(Mean(), params, of)
    for module in MODULES:
        a, b = (plain[f"{module}.lora_{factor}.weight"].double().flatten(1).numpy() for factor in "AB")
        assert torch.equal(found[f"{module}.lora_A.weight"], plain[f"{module}.lora_A.weight"])
        penalty = np.sqrt(ridge * (a**2).sum() / RANK) * np.eye(RANK)
        residual = np.hstack([mean_product(params, of, module) - b @ a, np.zeros((len(b), RANK))])
        correction = np.linalg.lstsq(np.hstack([a, penalty]).T, residual.T, rcond=None)[0].T
        new = found[f"{module}.lora_B.weight"].double().flatten(1).numpy()
        np.testing.assert_allclose(new, b + correction, atol=2e-6)


def test_fedrot_with_nothing_of_the_rotation_is_the_mean_and_leaves_round_1_alone() -> None:
    params = tunable()
    of = updates(Mean(), params)
    plain, _ = folded(Mean(), params, of)
    found, _ = folded(FedRot(softness=0), params, of)
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)
    start = {name: torch.zeros_like(t) if "lora_B" in name else t for name, t in params.items()}
    (first, _), (expected, _) = folded(FedRot(softness=1), start, of), folded(Mean(), start, of)
    assert all(torch.equal(first[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("reference", ["a", "b"])
def test_fedrot_undoes_rotations_of_the_clients_factors(reference: Any) -> None:
    """Clients that agree in B·A, each with factors turned by a rotation of its own."""
    params = tunable()
    rule = FedRot(softness=1, reference=reference)
    generator = torch.Generator().manual_seed(5)
    of = []
    for _ in EXAMPLES:
        q = rotation(torch.randn(RANK, RANK, generator=generator, dtype=torch.float64)).float()
        turned = dict(params)
        for module in MODULES:
            a, b = params[f"{module}.lora_A.weight"], params[f"{module}.lora_B.weight"]
            turned[f"{module}.lora_A.weight"] = (q.T @ a.flatten(1)).view(a.shape)
            turned[f"{module}.lora_B.weight"] = (b.flatten(1) @ q).view(b.shape)
        of.append({name: tensor - params[name] for name, tensor in turned.items()})
    found, error = folded(rule, params, of)
    _, plain = folded(Mean(), params, of)
    assert error is not None
    assert plain is not None
    assert error < 1e-5 < 0.3 < plain
    for name, tensor in params.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_fedrot_aligns_a_in_odd_rounds_and_b_in_even_ones() -> None:
    assert [FedRot().in_round(number).reference for number in (1, 2, 3)] == ["a", "b", "a"]
    assert FedRot(reference="b").in_round(1).reference == "b"


@pytest.mark.parametrize("softness", [0.0, 0.4, 0.6, 1.0])
def test_a_softened_rotation_is_a_part_of_the_angle(softness: float) -> None:
    angle = torch.tensor(0.9, dtype=torch.float64)
    q = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    part = torch.atan2(softness * angle.sin(), 1 - softness + softness * angle.cos())
    found = softened(q, softness)
    assert torch.atan2(found[1, 0], found[0, 0]).item() == pytest.approx(part.item(), abs=1e-12)
    assert torch.linalg.det(found).item() == pytest.approx(1)


def test_the_best_rotation_is_never_a_reflection() -> None:
    found = rotation(torch.diag(torch.tensor([3.0, 2.0, -1.0], dtype=torch.float64)))
    assert torch.linalg.det(found).item() == pytest.approx(1)
    torch.testing.assert_close(found, torch.eye(3, dtype=torch.float64))


def test_the_error_of_the_mean_is_that_of_the_dense_products() -> None:
    params = tunable()
    of = updates(Mean(), params)
    found, error = folded(Mean(), params, of)
    means = {module: mean_product(params, of, module) for module in MODULES}
    lost = sum(np.linalg.norm(product(found, module) - mean) ** 2 for module, mean in means.items())
    assert error == pytest.approx((lost / sum(np.linalg.norm(mean) ** 2 for mean in means.values())) ** 0.5, rel=1e-5)


def test_the_error_counts_only_ranks_that_a_client_has() -> None:
    params = tunable()
    held = Ranks((2,)).held(spec_of(params), "c", 1)
    still = {name: torch.zeros_like(tensor) for name, tensor in narrow(params, held).items()}
    _, error = folded(Mean(), params, [still] * 5, [held] * 5)
    assert error == pytest.approx(0, abs=1e-7)
    assert not holds(held, "q.lora_B.weight", (20, RANK))[:, 2:].any()


def test_the_error_is_undefined_without_factors_without_updates_and_for_stale_ones() -> None:
    params = tunable()
    head = {"classifier.bias": params["classifier.bias"]}
    none = AggregationError(spec_of(head), head)
    none.add(head, Contribution("a", 1, 1), {"classifier.bias": ()}, lambda _: 1.0)
    assert none.of(head) is None
    assert AggregationError(spec_of(params), params).of(params) is None
    stale = AggregationError(spec_of(params), params)
    stale.add(params, Contribution("a", 1, 1, staleness=1), dict.fromkeys(params, ()), lambda _: 1.0)
    assert stale.of(params) is None


@pytest.mark.parametrize("name", ON_PRODUCTS)
def test_d16_merged_weights_carry_alpha_over_r(name: str) -> None:
    """What plain peft merges is the clients' mean with the scale, where the rule is exact; α/r is 4 here, not 1."""
    base = nn.Sequential(nn.Linear(12, 9, bias=False))
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["0"])
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(base), config)
    before = base[0].weight.detach()

    def merged(params: Params) -> Tensor:
        adapted = copy.deepcopy(model)
        set_peft_model_state_dict(adapted, {key: value.clone() for key, value in params.items()})
        weight: Tensor = adapted.merge_and_unload()[0].weight.detach()
        return weight - before

    rule = RULES[name]()
    params = rule.initial({key: t.detach().clone() for key, t in get_peft_model_state_dict(model).items()}, 0)
    of = updates(rule, params)
    of = [of[0]] * 5 if rule.in_round(1).trains(spec_of(params), 1) == params.keys() else of  # then only these agree
    found, _ = folded(rule, params, of)
    clients = [merged({**params, **add({key: params[key] for key in update}, update)}) for update in of]
    mean = sum(share * weight for share, weight in zip(SHARES, clients, strict=True))
    torch.testing.assert_close(merged(found), mean.to(torch.float32), rtol=1e-4, atol=1e-5)
    assert merged(found).norm() > 1e-3
