"""Low-rank products of several clients against each client's own, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedfm.models.stacked import products
from fedfm.models.stacked.products import low_rank

SIZES = {"equal": (4, 4, 4), "unequal": (3, 5, 2, 7, 4, 4, 1), "one without": (6, 0, 2), "one client": (5,)}


def one_by_one(x: Tensor, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor, sizes: tuple[int, ...]) -> Tensor:
    parts = zip(x.split(list(sizes)), a, b, strict=True)
    return torch.cat([part @ weight.T + bias + 0.5 * part @ down.T @ up.T for part, down, up in parts])


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_values_and_gradients(sizes: tuple[int, ...], together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        products, "_grouped", lambda sizes, a: products._groups(sizes, a.shape[1], together, a.dtype, a.device)
    )
    torch.manual_seed(0)
    count, vectors = len(sizes), sum(sizes)
    shapes = {"x": (vectors, 12), "weight": (9, 12), "bias": (9,), "a": (count, 3, 12), "b": (count, 9, 3)}
    x, weight, bias, a, b = (torch.randn(shape, dtype=torch.float64) for shape in shapes.values())
    inputs = [tensor.requires_grad_() for tensor in (x, a, b)]
    ours, theirs = low_rank(x, weight, bias, a, b, 0.5, sizes), one_by_one(x, weight, bias, a, b, sizes)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    gradient = torch.randn_like(ours)
    found, wanted = (torch.autograd.grad(y, inputs, gradient) for y in (ours, theirs))
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


def test_in_bfloat16_few_ranks_are_one_product_and_clients_stay_apart() -> None:
    torch.manual_seed(0)
    sizes, rank = (3, 2, 4, 1, 2), 16  # two clients a product
    x, a, b = (torch.randn(shape, dtype=torch.bfloat16) for shape in ((12, 8), (5, rank, 8), (5, 8, rank)))
    weight = torch.zeros(8, 8, dtype=torch.bfloat16)
    assert [group.clients for group in products._grouped(sizes, a)] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    before = low_rank(x, weight, None, a, b, 1.0, sizes)
    a[1], b[1] = 0, 0
    after = low_rank(x, weight, None, a, b, 1.0, sizes)
    assert torch.equal(after[3:5], torch.zeros(2, 8, dtype=torch.bfloat16))
    assert torch.equal(after[:3], before[:3])
    assert torch.equal(after[5:], before[5:])
