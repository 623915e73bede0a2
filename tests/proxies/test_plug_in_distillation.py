"""The plugged backbone learns from the tuned proxy: its loss by NumPy, and what it changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Lora
from fedfm.proxies.ffn import output_layer
from fedfm.proxies.plug_in_distillation import Resemblance, compare, distill_plug_in
from fedfm.proxies.settings import PlugInDistillation
from fedfm.proxies.trace import hidden_states
from tests.models.cases import TASKS, Case
from tests.proxies.small_proxy import Small, blocks_of, public_batches, small_proxy, values

CASES: list[Case] = [("tiny-bert", "text"), ("tiny-gpt2", "text"), ("tiny-llama", "causal"), ("tiny-vit", "image")]


def tuned(case: Case) -> tuple[Small, Tunable, Tunable]:
    """Backbone and proxy with the same adapter and head, which have been trained."""
    name, task = case
    small = small_proxy(name, task)
    for block, _ in small.pairs:  # the FFNs of a new model do little, and so does cutting them
        output_layer(block).weight.data.mul_(1000)
    backbone, proxy = (
        Lora(target_modules="attention").attach(model, task_type=TASKS[task].task_type, seed=0)
        for model in (small.backbone, small.proxy)
    )
    generator = torch.Generator().manual_seed(1)
    params = {name: value + torch.randn(value.shape, generator=generator) for name, value in proxy.read().items()}
    backbone.write(params)
    proxy.write(params)
    return small, backbone, proxy


def real(values: Tensor, mask: Tensor | None) -> np.ndarray:
    rows = values if mask is None else values[mask.bool()]
    return rows.reshape(-1, values.shape[-1]).double().numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


@pytest.mark.parametrize("case", CASES, ids="-".join)
@torch.no_grad()
def test_the_loss_is_divergence_at_a_temperature_and_relative_error_of_hidden_states(case: Case) -> None:
    small, backbone, proxy = tuned(case)
    (batch,) = public_batches(small.backbone, 1)
    mask = batch.get("attention_mask")
    logits = [tunable.model.eval()(**batch).logits for tunable in (proxy, backbone)]
    p, q = (softmax(real(found, mask if found.dim() == 3 else None) / 3) for found in logits)
    divergence = (p * (np.log(p) - np.log(q))).sum(-1).mean()
    states = [
        hidden_states(tunable.model, blocks_of(part), batch)
        for tunable, part in ((proxy, small.proxy), (backbone, small.backbone))
    ]
    errors = [
        ((real(h, mask) - real(t, mask)) ** 2).sum() / (real(h, mask) ** 2).sum()
        for h, t in zip(*(part.values() for part in states), strict=True)
    ]
    settings = PlugInDistillation(steps=1, temperature=3, hidden=0.5)
    with torch.enable_grad():
        (loss,) = distill_plug_in(proxy, backbone, small.pairs, [batch], settings)
    assert loss == pytest.approx(9 * divergence + 0.5 * np.mean(errors), rel=1e-3)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_only_the_backbones_tunable_changes_and_its_predictions_come_nearer(case: Case) -> None:
    small, backbone, proxy = tuned(case)
    held = public_batches(small.backbone, 4)
    batches = held * 15
    before, start, teacher = compare(proxy, backbone, held), backbone.read(), values(proxy.model)
    frozen = {name: tensor.clone() for name, tensor in small.backbone.model.state_dict().items()}
    settings = PlugInDistillation(steps=60, learning_rate=1e-3, hidden=0)  # hidden states alone may pull elsewhere
    losses = distill_plug_in(proxy, backbone, small.pairs, batches, settings)
    after = compare(proxy, backbone, held)
    assert len(losses) == 60
    assert after.divergence < before.divergence
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in proxy.model.state_dict().items())
    trained = {id(parameter) for parameter in backbone.parameters.values()}
    for name, tensor in backbone.model.named_parameters():
        assert id(tensor) in trained or not tensor.requires_grad, name
    unchanged = [name for name, parameter in small.backbone.model.named_parameters() if id(parameter) not in trained]
    state = small.backbone.model.state_dict()
    assert all(torch.equal(state[name], frozen[name]) for name in unchanged)
    assert any(not torch.equal(value, start[name]) for name, value in backbone.read().items())


@torch.no_grad()
def test_resemblance_by_hand() -> None:
    small, backbone, proxy = tuned(("tiny-bert", "text"))
    batches = public_batches(small.backbone, 3)
    logits = [
        np.concatenate([tunable.model.eval()(**batch).logits.double().numpy() for batch in batches])
        for tunable in (proxy, backbone)
    ]
    p, q = map(softmax, logits)
    found = compare(proxy, backbone, batches)
    assert found.divergence == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-4)
    assert found.confidence == pytest.approx(q.max(-1).mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("divergence", "confidence", "better"), [(0.4, 0.8, True), (0.4, 0.71, False), (0.6, 0.9, False)]
)
def test_an_outcome_that_agrees_by_being_indifferent_is_no_better(
    divergence: float, confidence: float, better: bool
) -> None:
    assert Resemblance(divergence, confidence).is_better_than(Resemblance(0.5, 0.8)) is better


def test_a_loss_that_is_no_number_ends_it() -> None:
    small, backbone, proxy = tuned(("tiny-bert", "text"))
    backbone.write({name: torch.full_like(value, math.inf) for name, value in backbone.read().items()})
    with pytest.raises(RecipeError, match=r"proxy\.plug_in\.distill: plug-in distillation diverged at step 1"):
        distill_plug_in(proxy, backbone, small.pairs, public_batches(small.backbone, 2), PlugInDistillation())
