"""HetLoRA against a hand computation, the dense norm, and FedAvg."""

from __future__ import annotations

import pytest
import torch

from fedfm.aggregation import Contribution, HetLora, Mean, Rule
from fedfm.aggregation.lora.factors import flat
from fedfm.aggregation.lora.pairs import pairs
from fedfm.models.low_rank import Thin
from fedfm.params import Params
from fedfm.spec import spec_of
from fedfm.views import Slices, whole

A, B, HEAD = "m.q.lora_A.weight", "m.q.lora_B.weight", "m.head.bias"


def folded(rule: Rule, params: Params, clients: list[tuple[Params, int, Slices]]) -> Params:
    fold = rule.start(spec_of(params), params)
    for number, (update, examples, slices) in enumerate(clients):
        fold.add(update, Contribution(str(number), examples, 1), slices)
    return fold.result()


def test_norm_weights_by_hand() -> None:
    # A_t = [1, 0; 0, 1], B_t = 0. Client 0 holds rank 1: B·A = [3, 0; 4, 0], norm 5.
    # Client 1 holds both ranks: A = [1, 0; 0, 2], B = [2, 0; 0, 5], B·A = [2, 0; 0, 10], norm √104.
    params = {A: torch.eye(2), B: torch.zeros(2, 2), HEAD: torch.zeros(1)}
    first = {A: torch.zeros(1, 2), B: torch.tensor([[3.0], [4.0]]), HEAD: torch.tensor([1.0])}
    second = {
        A: torch.tensor([[0.0, 0.0], [0.0, 1.0]]),
        B: torch.tensor([[2.0, 0.0], [0.0, 5.0]]),
        HEAD: torch.zeros(1),
    }
    leading: Slices = {A: (slice(1),), B: (slice(None), slice(1)), HEAD: ()}
    found = folded(HetLora(), params, [(first, 30, leading), (second, 10, whole(spec_of(params)))])
    p, q = 5.0, 104**0.5
    assert found[B][:, 0].tolist() == pytest.approx([(p * 3 + q * 2) / (p + q), p * 4 / (p + q)])
    assert found[B][:, 1].tolist() == [0.0, 5.0]  # held by client 1 alone
    assert found[A].tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert found[HEAD].item() == 0.75  # by examples


def test_the_norm_is_of_what_a_client_holds_after_training_not_of_its_update() -> None:
    # Client 0 did not move from B·A = [6]; client 1 moved to [2].
    params = {A: torch.tensor([[2.0]]), B: torch.tensor([[3.0]])}
    still, moved = {A: torch.zeros(1, 1), B: torch.zeros(1, 1)}, {A: torch.tensor([[-1.0]]), B: torch.tensor([[-1.0]])}
    found = folded(HetLora(), params, [(still, 1, whole(spec_of(params))), (moved, 1, whole(spec_of(params)))])
    assert found[A].item() == pytest.approx(-2 / (6 + 2))


def test_with_equal_ranks_and_weights_by_examples_it_is_fedavg_bit_for_bit() -> None:
    torch.manual_seed(0)
    params = {A: torch.randn(4, 7), B: torch.randn(5, 4), HEAD: torch.randn(3)}
    clients = [
        ({name: torch.randn(tensor.shape) for name, tensor in params.items()}, examples, whole(spec_of(params)))
        for examples in (3, 11, 6)
    ]
    found, expected = (folded(rule, params, clients) for rule in (HetLora(weights="examples"), Mean()))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("shapes", [((4, 7), (5, 4)), ((1, 3), (2, 1)), ((3, 2, 3, 3), (6, 3, 1, 1))])
def test_the_norm_of_a_product_equals_the_dense_one(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    assert Thin(flat(b), flat(a)).norm() == pytest.approx((b.flatten(1) @ a.flatten(1)).norm().item(), rel=1e-12)


def test_factors_belong_together_by_their_names() -> None:
    names = ["x.lora_A.weight", "x.lora_B.weight", "y.lora_A.weight", "e.lora_embedding_A", "e.lora_embedding_B", "h"]
    assert pairs(names) == {"e.lora_embedding_A": "e.lora_embedding_B", "x.lora_A.weight": "x.lora_B.weight"}
