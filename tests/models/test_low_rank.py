"""Algebra of thin products against numpy on the dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfm.models.low_rank import Thin

SHAPES = [(9, 7, 3), (7, 9, 3), (4, 11, 4), (11, 4, 4), (5, 5, 1)]


def terms(out: int, size: int, rank: int, count: int) -> list[tuple[float, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(out * size + rank)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [(0.1 + number / 7, draw(rank, size), draw(out, rank)) for number in range(count)]


def dense(of: list[tuple[float, Tensor, Tensor]]) -> np.ndarray:
    return np.sum([p * b.numpy() @ a.numpy() for p, a, b in of], axis=0)


@pytest.mark.parametrize(("out", "size", "rank"), SHAPES)
@pytest.mark.parametrize("count", [1, 2, 12])  # 12 products are wider than twice the smaller dimension
def test_sum_norm_and_svd_are_those_of_the_dense_matrix(out: int, size: int, rank: int, count: int) -> None:
    of = terms(out, size, rank, count)
    found, expected = Thin.sum_of(of), dense(of)
    assert found.left.shape[1] <= min(out, size)
    np.testing.assert_allclose((found.left @ found.right).numpy(), expected, atol=1e-12)
    assert found.norm() == pytest.approx(np.linalg.norm(expected), rel=1e-12)
    u, values, vt = found.svd(rank)
    u_dense, values_dense, vt_dense = np.linalg.svd(expected, full_matrices=False)
    np.testing.assert_allclose(values.numpy(), values_dense[:rank], atol=1e-12)
    best = (u_dense[:, :rank] * values_dense[:rank]) @ vt_dense[:rank]
    np.testing.assert_allclose(((u * values) @ vt).numpy(), best, atol=1e-12)
    np.testing.assert_allclose((vt @ vt.T).numpy(), np.eye(len(vt)), atol=1e-12)


def test_the_difference_of_equal_products_with_other_factors_is_zero() -> None:
    ((_, a, b),) = terms(9, 7, 3, 1)
    turned, _ = torch.linalg.qr(torch.arange(9.0, dtype=torch.float64).view(3, 3) + torch.eye(3))
    assert (Thin(b, a) - Thin(b @ turned, turned.T @ a)).norm() < 1e-12 * Thin(b, a).norm()


def test_no_terms_are_an_error() -> None:
    with pytest.raises(ValueError, match="no products"):
        Thin.sum_of([])


def test_compression_drops_what_is_no_rank() -> None:
    ((_, a, b),) = terms(9, 7, 3, 1)
    found = (Thin(b, a) + Thin(b, 0.5 * a)).compressed()
    assert found.left.shape == (9, 3)
    torch.testing.assert_close(found.left @ found.right, 1.5 * b @ a)
    assert (Thin(b, a) - Thin(b, a)).compressed(1e-9).left.shape == (9, 0)
