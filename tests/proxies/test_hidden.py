from __future__ import annotations

import pytest
import torch

from fedfm.proxies.hidden import layer_errors, relative_error
from fedfm.proxies.trace import hidden_states
from tests.proxies.small_proxy import public_batches, small_proxy


def test_relative_error_by_hand() -> None:
    teacher = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    student = torch.tensor([[[3.0, 1.0], [2.0, 4.0]]])
    assert relative_error(teacher, student, None).item() == pytest.approx(5 / 25)
    assert relative_error(teacher, student, torch.tensor([[1, 0]])).item() == pytest.approx(1 / 9)


def test_relative_error_is_the_mean_of_squares_over_the_rms() -> None:
    """As the paper's code writes it: mean(((T − H)/rms(T))²)."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 3, 5, 4, generator=generator)
    rms = teacher.square().mean().sqrt()
    expected = ((teacher - student) / rms).square().mean()
    torch.testing.assert_close(relative_error(teacher, student, None), expected)


def test_nothing_in_the_padding_counts() -> None:
    teacher, student = torch.ones(2, 2, 3, 4)
    student = student * 2
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    expected = relative_error(teacher, student, mask)
    teacher[mask == 0], student[mask == 0] = 1e6, float("nan")
    assert torch.equal(relative_error(teacher, student, mask), expected)
    assert expected == 1


def test_layer_errors_take_batches_together() -> None:
    small = small_proxy()
    batches = [*public_batches(small.backbone, 2), *public_batches(small.backbone, 1, size=9, seed=1)]
    errors = layer_errors(small.backbone.model, small.proxy.model, small.pairs, batches)
    assert list(errors) == ["encoder.layer.0", "encoder.layer.1"]
    for path, error in errors.items():
        distance = size = 0.0
        for batch in batches:
            with torch.no_grad():
                pair = [block for block, _ in small.pairs], [block for _, block in small.pairs]
                target = hidden_states(small.backbone.model, pair[0], batch)[path]
                state = hidden_states(small.proxy.model, pair[1], batch)[path]
            for row, column in batch["attention_mask"].nonzero().tolist():
                distance += (target[row, column] - state[row, column]).square().sum().item()
                size += target[row, column].square().sum().item()
        assert error == pytest.approx(distance / size, rel=1e-5)
        assert error > 0.001


def test_a_backbone_is_no_distance_from_itself() -> None:
    small = small_proxy("tiny-llama", "causal")
    pairs = [(block, block) for block, _ in small.pairs]
    batches = public_batches(small.backbone, 1)
    assert set(layer_errors(small.backbone.model, small.backbone.model, pairs, batches).values()) == {0.0}
