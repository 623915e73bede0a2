"""Masks: what is kept in training and in evaluation, gradients, and the model that is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Mask
from fedfm.randomness import torch_seed
from tests.models.cases import batch, load, logits

QUERY = "bert.encoder.layer.0.attention.self.query"
SCORES = f"{QUERY}.mask_scores"
INPUTS = batch(load("tiny-bert", "text"))


def attach(settings: Mask | None = None, model: str = "tiny-bert") -> Tunable:
    return (settings or Mask()).attach(load(model, "text"), task_type="SEQ_CLS", seed=0)


def drawn(tunable: Tunable, seed: int) -> torch.Tensor:
    """The logits of a training step without dropout, under a seed."""
    tunable.train(dropout=False)
    with torch_seed(seed, "dropout"), torch.no_grad():
        return tunable.model(**INPUTS).logits


def test_it_starts_as_the_backbone() -> None:
    assert torch.equal(logits(attach().model, INPUTS), logits(load("tiny-bert", "text").model, INPUTS))


def test_there_is_a_score_for_each_entry_and_all_begin_alike() -> None:
    scores = {name: value for name, value in attach(Mask(initial_probability=0.9)).read().items() if "mask" in name}
    assert sum(value.numel() for value in scores.values()) == 2 * 4 * 16 * 16
    torch.testing.assert_close(scores[SCORES], torch.full((16, 16), 2.1972246))  # log(0.9 / 0.1)


def test_masks_are_drawn_in_training_with_a_key() -> None:
    tunable = attach(Mask(initial_probability=0.6))
    one, same, other = drawn(tunable, 1), drawn(tunable, 1), drawn(tunable, 2)
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=1e-4)
    tunable.eval()
    assert torch.equal(logits(tunable.model, INPUTS), logits(load("tiny-bert", "text").model, INPUTS))


def test_an_entry_is_kept_with_its_probability() -> None:
    tunable = attach()
    probabilities = torch.linspace(0.05, 0.95, 256).view(16, 16)
    tunable.write({**tunable.read(), SCORES: torch.log(probabilities / (1 - probabilities))})
    layer, weight = tunable.base_model.get_submodule(QUERY), load("tiny-bert", "text").model.get_submodule(QUERY).weight
    tunable.train(dropout=False)
    with torch.no_grad(), torch_seed(0, "dropout"):
        draws = torch.stack([layer.weight for _ in range(2000)])
    kept = draws != 0
    assert torch.equal(draws, kept * weight)
    torch.testing.assert_close(kept.double().mean(0), probabilities.double(), atol=0.06, rtol=0)  # five deviations


def test_gradients_pass_straight_through_the_mask() -> None:
    """∂L/∂s = ∂L/∂(W ⊙ m) · W · σ(s)(1 − σ(s)), with the gradient of a plain model that has the masked weights."""
    tunable = attach()
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(16, 16, generator=generator)
    tunable.write({**tunable.read(), SCORES: scores})
    tunable.eval()
    tunable.model(**INPUTS).logits.square().mean().backward()
    plain = load("tiny-bert", "text").model.eval()
    weight = plain.get_submodule(QUERY).weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight *= scores > 0
    weight.requires_grad_()
    plain(**INPUTS).logits.square().mean().backward()
    assert weight.grad is not None
    probability = 1 / (1 + torch.exp(-scores))
    expected = weight.grad * before * probability * (1 - probability)
    torch.testing.assert_close(tunable.parameters[SCORES].grad, expected, atol=1e-8, rtol=1e-4)


def test_what_is_written_has_zeros_where_scores_are_low(tmp_path: Path) -> None:
    tunable = attach()
    scores = torch.ones(16, 16)
    scores[3, :5] = -0.001
    tunable.write({**tunable.read(), SCORES: scores})
    tunable.save(tmp_path, None)
    written = load_file(tmp_path / "model.safetensors")
    before = load("tiny-bert", "text").model.state_dict()
    assert written.keys() == before.keys()
    expected = before[f"{QUERY}.weight"].clone()
    expected[3, :5] = 0
    assert torch.equal(written[f"{QUERY}.weight"], expected)
    others = written.keys() - {f"{QUERY}.weight"}
    assert all(torch.equal(written[name], before[name]) for name in others)


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_a_start_that_is_not_the_backbone_is_refused(probability: float) -> None:
    with pytest.raises(ValidationError, match="initial_probability"):
        Mask(initial_probability=probability)


def test_a_head_that_would_stay_random_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"tune\.head: .* would stay random"):
        attach(Mask(head=False))
