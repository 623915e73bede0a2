"""Params: algebra, digests, safetensors."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
import torch
from safetensors import safe_open

from fedfm import params as p


def test_algebra_by_hand() -> None:
    a = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([[3.0]])}
    b = {"x": torch.tensor([0.5, -1.0]), "y": torch.tensor([[1.0]])}
    assert p.add(a, b)["x"].tolist() == [1.5, 1.0]
    assert p.subtract(a, b)["y"].tolist() == [[2.0]]
    assert p.count(a) == 3
    assert p.full_like(a, 7.0)["y"].tolist() == [[7.0]]
    assert p.zeros_like(a)["x"].tolist() == [0.0, 0.0]


def test_add_keeps_the_dtype_of_the_first() -> None:
    total = p.add({"x": torch.ones(1)}, {"x": torch.ones(1, dtype=torch.float64)})
    assert total["x"].dtype == torch.float32


def test_a_missing_name_is_an_error_not_a_broadcast() -> None:
    with pytest.raises(KeyError):
        p.add({"x": torch.ones(1), "y": torch.ones(1)}, {"x": torch.ones(1)})


def test_tensor_digest_is_sha256_of_header_and_bytes() -> None:
    tensor = torch.tensor([1.0, 2.0])
    expected = hashlib.sha256(json.dumps(["float32", [2]]).encode() + tensor.numpy().tobytes()).hexdigest()
    assert p.tensor_digest(tensor) == expected


def test_digest_sees_names_shapes_types_and_values_but_not_order() -> None:
    base = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
    assert p.digest(base) == p.digest(dict(reversed(base.items())))
    others = [
        {"a": torch.tensor([1.0, 2.0]), "c": torch.tensor([3.0])},
        {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([3.0])},
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64), "b": torch.tensor([3.0])},
        {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([3.0])},
    ]
    assert len({p.digest(base), *map(p.digest, others)}) == 5


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([], True),
        ([1.0, -2.0], True),
        ([3e38, 3e38], True),  # whose sum is not
        ([1.0, math.nan], False),
        ([math.inf, -math.inf], False),
        ([-math.inf, 1.0], False),
    ],
)
def test_finite_are_numbers_that_are_not_infinite(values: list[float], finite: bool) -> None:
    assert p.is_finite(torch.tensor(values)) is finite


def test_digest_of_a_view_is_that_of_its_values() -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    assert p.tensor_digest(whole.T) == p.tensor_digest(whole.T.contiguous())


def test_files_are_plain_safetensors(tmp_path) -> None:
    params = {"b": torch.ones(2), "a": torch.eye(2).T}
    p.save(params, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["a", "b"]
    assert p.digest(p.load(tmp_path / "x.safetensors")) == p.digest(params)
