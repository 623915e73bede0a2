from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import AdamW

from fedfm.errors import RecipeError
from fedfm.models.tunables import Lora
from fedfm.proxies.distillation import _product_loss, _products, distill
from fedfm.proxies.divergence import divergence, states_and_logits
from fedfm.proxies.ffn import neuron_tensors, output_layer
from fedfm.proxies.hidden import layer_errors, relative_error
from fedfm.proxies.settings import DistillSettings
from fedfm.proxies.trace import hidden_states
from tests.models.cases import CASES
from tests.proxies.small_proxy import Small, changed, public_batches, small_proxy, values

QUICK = DistillSettings(steps=20, learning_rate=0.01, warmup_ratio=0)


def fit(small: Small, settings: DistillSettings = QUICK, **options: object) -> list[float]:
    batches = public_batches(small.backbone, settings.steps)
    trainable = list(small.own.values())
    return distill(small.backbone.model, small.proxy.model, small.pairs, trainable, batches, settings, **options)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_only_what_the_proxy_owns_changes(name: str, task: str) -> None:
    """Spec 13.4: gradients are non-zero in exactly the listed parameters, and the error falls."""
    small = small_proxy(name, task, whole=1)
    backbone, proxy = values(small.backbone.model), values(small.proxy.model)
    probes = public_batches(small.backbone, 2, seed=9)
    before = layer_errors(small.backbone.model, small.proxy.model, small.pairs, probes)
    losses = fit(small)
    after = layer_errors(small.backbone.model, small.proxy.model, small.pairs, probes)
    assert changed(small.backbone.model, backbone) == set()
    own = {id(parameter) for parameter in small.own.values()}
    expected = {key for key, value in small.proxy.model.named_parameters() if id(value) in own}
    assert changed(small.proxy.model, proxy) == expected
    assert len(expected) == len(small.own)
    assert len(losses) == 20
    assert all(after[path] < 0.9 * before[path] for path in before)


def test_the_first_loss_is_the_mean_error_of_compressed_layers() -> None:
    small = small_proxy("tiny-gpt2", "causal")
    batch = public_batches(small.backbone, 1)[0]
    errors = layer_errors(small.backbone.model, small.proxy.model, small.pairs, [batch])
    loss = fit(small, DistillSettings(steps=1))[0]
    assert loss == pytest.approx(sum(errors.values()) / 2, rel=1e-5)


@pytest.mark.parametrize("case", [("tiny-gpt2", "causal"), ("tiny-llama", "causal"), ("tiny-bert", "masked")])
def test_the_loss_with_predictions_adds_their_divergence_at_real_positions(case: tuple[str, str]) -> None:
    """By NumPy: A averaged over the compressed layers, and γ times the mean of Σ p·(log p − log p̂)."""
    small = small_proxy(*case)
    batch = public_batches(small.backbone, 1)[0]
    for block, _ in small.pairs:  # the FFNs of a new model do little, and so does cutting them
        output_layer(block).weight.data.mul_(100)
    errors = layer_errors(small.backbone.model, small.proxy.model, small.pairs, [batch])
    with torch.no_grad():
        real = [half.model(**batch).logits[batch["attention_mask"].bool()] for half in (small.backbone, small.proxy)]
    p, q = (np.exp(logits.double().numpy()) for logits in real)
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    expected = (p * np.log(p / q)).sum(-1).mean()
    assert expected > 1e-4
    loss = fit(small, DistillSettings(steps=1, predictions=3))[0]
    assert loss == pytest.approx(np.mean(list(errors.values())) + 3 * expected, rel=1e-4)


def test_predictions_come_nearer_where_they_are_in_the_loss() -> None:
    """Hidden states alone come nearer to the backbone's too, but predictions less."""
    found = []
    for weight in (0.0, 1.0):
        small = small_proxy("tiny-gpt2", "causal")
        for block, _ in small.pairs:
            output_layer(block).weight.data.mul_(100)
        held = public_batches(small.backbone, 2, seed=9)
        fit(small, DistillSettings(steps=40, learning_rate=0.01, warmup_ratio=0, predictions=weight))
        with torch.no_grad():
            passes = [
                [states_and_logits(half.model, [], batch)[1] for half in (small.backbone, small.proxy)]
                for batch in held
            ]
        found.append(sum(divergence(wanted, got).item() for wanted, got in passes))
    assert found[1] < 0.8 * found[0]


def test_a_block_learns_to_make_up_for_those_before_it() -> None:
    """The proxy is not fed the backbone's hidden states: a later block's error reaches the earlier block's neurons."""
    small = small_proxy()
    first = small.pairs[0][1]
    late = [small.pairs[1]]
    weight = first.module.get_parameter("output.dense.weight")
    before = weight.detach().clone()
    distill(small.backbone.model, small.proxy.model, late, [weight], public_batches(small.backbone, 1), QUICK)
    assert not torch.equal(weight, before)


def test_one_step_is_that_of_adamw() -> None:
    small, other = small_proxy(), small_proxy()
    settings = DistillSettings(steps=1, learning_rate=0.01, warmup_ratio=0.5, weight_decay=0.1, max_grad_norm=0.01)
    batch = public_batches(small.backbone, 1)[0]
    fit(small, settings)

    parameters = [parameter.requires_grad_() for parameter in other.own.values()]
    states = hidden_states(other.proxy.model, [block for _, block in other.pairs], batch)
    targets = hidden_states(other.backbone.model, [block for block, _ in other.pairs], batch)
    errors = [relative_error(targets[path], states[path], batch["attention_mask"]) for path in states]
    (sum(errors) / 2).backward()
    assert nn.utils.clip_grad_norm_(parameters, 0.01) > 0.01
    matrices = [parameter for parameter in parameters if parameter.dim() == 2]
    vectors = [parameter for parameter in parameters if parameter.dim() == 1]  # biases and norms do not decay
    assert len(matrices) == 4
    assert len(vectors) == 8
    AdamW(matrices, lr=0.01, weight_decay=0.1).step()
    AdamW(vectors, lr=0.01, weight_decay=0).step()
    for ours, theirs in zip(small.own.values(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    """AdamW's first steps have the length of the learning rate, whatever the gradient."""
    small = small_proxy()
    lengths = []
    bias = small.own["encoder.layer.0.output.dense.bias"]

    def batches():  # type: ignore[no-untyped-def]
        for batch in public_batches(small.backbone, 1) * 8:
            before = bias.detach().clone()
            yield batch
            lengths.append((bias - before).abs().max().item())

    settings = DistillSettings(steps=8, learning_rate=1e-3, warmup_ratio=0.25, weight_decay=0)
    distill(small.backbone.model, small.proxy.model, small.pairs, [bias], batches(), settings)
    expected = [0, 5e-4, 1e-3, 5e-3 / 6, 4e-3 / 6, 3e-3 / 6, 2e-3 / 6]
    assert lengths == pytest.approx(expected, rel=0.2)
    assert lengths[0] == 0


def test_no_more_steps_than_the_settings_say() -> None:
    small = small_proxy()
    batches = iter(public_batches(small.backbone, 5))
    trainable = list(small.own.values())
    settings = DistillSettings(steps=3)
    losses = distill(small.backbone.model, small.proxy.model, small.pairs, trainable, batches, settings)
    assert len(losses) == 3


def test_adapters_are_frozen_for_the_while() -> None:
    small = small_proxy()
    tunable = Lora(lora_dropout=0.5).attach(small.proxy, task_type="SEQ_CLS", seed=0)
    required = {name: parameter.requires_grad for name, parameter in tunable.model.named_parameters()}
    assert any(required.values())
    before = tunable.read()
    trainable = list(small.own.values())
    batches = public_batches(small.backbone, 3)
    tunable.model.train()
    losses = [
        distill(small.backbone.model, tunable.model, small.pairs, trainable, batches, DistillSettings(steps=1))
        for _ in range(2)
    ]
    assert {name: parameter.requires_grad for name, parameter in tunable.model.named_parameters()} == required
    assert all(torch.equal(value, before[name]) for name, value in tunable.read().items())
    assert all(parameter.grad is None for parameter in tunable.model.parameters())
    again = small_proxy()
    Lora(lora_dropout=0.5).attach(again.proxy, task_type="SEQ_CLS", seed=0)
    assert losses[0] == fit(again, DistillSettings(steps=1))  # nothing was dropped out


def test_shared_parameters_are_refused() -> None:
    small = small_proxy()
    shared = small.backbone.model.get_parameter("bert.embeddings.word_embeddings.weight")
    with pytest.raises(ValueError, match="shares a parameter"):
        distill(small.backbone.model, small.proxy.model, small.pairs, [shared], [], QUICK)


def test_divergence_is_told() -> None:
    small = small_proxy("tiny-gpt2", "causal")
    settings = DistillSettings(steps=20, learning_rate=1e30, max_grad_norm=None)
    with pytest.raises(RecipeError, match=r"proxy\.align: distillation diverged at step \d+; lower"):
        fit(small, settings, where="proxy.align")
    assert not any(parameter.requires_grad for parameter in small.proxy.model.parameters())


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-llama"])
def test_masked_entries_stay_bit_for_bit(name: str) -> None:
    """Although weight decay alone would move them."""
    small = small_proxy(name)
    before = {key: value.detach().clone() for key, value in small.own.items()}
    may = torch.zeros(12, dtype=torch.bool)
    may[[1, 5, 11]] = True
    masks = {}
    for _, block in small.pairs:
        for tensor in neuron_tensors(block):
            parameter = block.module.get_parameter(tensor.name)
            masks[parameter] = tensor.mask(parameter, may)
    fit(small, DistillSettings(steps=6, learning_rate=0.01, warmup_ratio=0, weight_decay=0.5), masks=masks)
    for key, parameter in small.own.items():
        moved = parameter != before[key]
        if parameter in masks:
            allowed = masks[parameter].expand_as(parameter)
            assert not (moved & ~allowed).any()
            assert (moved & allowed).sum() > 0.9 * allowed.sum()
        else:
            assert moved.float().mean() > 0.9


def test_masked_gradients_do_not_use_up_the_clipping_norm() -> None:
    """The rest is fitted as if what is masked did not exist."""
    small, alone = small_proxy(), small_proxy()
    name = "encoder.layer.1.output.dense.weight"
    settings = DistillSettings(steps=3, learning_rate=0.01, warmup_ratio=0, max_grad_norm=0.001)
    masks = {
        parameter: torch.zeros_like(parameter, dtype=torch.bool) for key, parameter in small.own.items() if key != name
    }
    fit(small, settings, masks=masks)
    distill(
        alone.backbone.model,
        alone.proxy.model,
        alone.pairs,
        [alone.own[name]],
        public_batches(alone.backbone, 3),
        settings,
    )
    torch.testing.assert_close(small.own[name], alone.own[name])


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-llama"])
def test_the_product_term_is_the_distance_of_weight_products(name: str) -> None:
    """B has a gradient (spec 9.1 B1), and is what the Gram identity says (spec 12.4)."""
    small = small_proxy(name)
    targets = _products([block for block, _ in small.pairs])
    blocks = [block for _, block in small.pairs]
    for parameter in small.own.values():
        parameter.requires_grad_()
    loss = _product_loss(targets, blocks)
    loss.backward()  # type: ignore[no-untyped-call]
    parts = []
    for pair in small.pairs:
        (inputs, output), (cut_inputs, cut_output) = (matrices(block, name) for block in pair)
        distance = size = 0.0
        for full, cut in zip(inputs, cut_inputs, strict=True):
            size += gram(full, output, full, output)
            distance += gram(full, output, full, output) + gram(cut, cut_output, cut, cut_output)
            distance -= 2 * gram(full, output, cut, cut_output)
        parts.append(distance / size)
    assert loss.item() == pytest.approx(sum(parts) / 2, rel=1e-4)
    weights = [parameter for parameter in small.own.values() if parameter.dim() == 2]
    assert all(weight.grad is not None and weight.grad.abs().min() > 0 for weight in weights)


def matrices(block, name):  # type: ignore[no-untyped-def]
    """W₁ (gate and up) [m, d] and W₂ [d, m], by the names of each family."""
    get = block.module.get_parameter
    if name == "tiny-bert":
        return [get("intermediate.dense.weight")], get("output.dense.weight")
    if name == "tiny-gpt2":
        return [get("mlp.c_fc.weight").T], get("mlp.c_proj.weight").T
    return [get("mlp.gate_proj.weight"), get("mlp.up_proj.weight")], get("mlp.down_proj.weight")


def gram(first, first_output, second, second_output) -> float:  # type: ignore[no-untyped-def]
    """⟨W₂W₁, V₂V₁⟩ = Σ W₁V₁ᵀ ∘ W₂ᵀV₂."""
    return ((first @ second.T) * (first_output.T @ second_output)).sum().item()


def test_the_product_term_counts_with_its_weight() -> None:
    plain = fit(small_proxy(), DistillSettings(steps=1))[0]
    with_product = fit(small_proxy(), DistillSettings(steps=1, product=0.5))[0]
    small = small_proxy()
    product = _product_loss(_products([block for block, _ in small.pairs]), [block for _, block in small.pairs])
    assert math.isclose(with_product, plain + 0.5 * product.item(), rel_tol=1e-5)
    assert product.item() > 0.1
    heavy, light = small_proxy(), small_proxy()
    fit(heavy, DistillSettings(steps=20, learning_rate=0.01, product=10))
    fit(light, DistillSettings(steps=20, learning_rate=0.01))
    distances = [
        _product_loss(_products([block for block, _ in some.pairs]), [block for _, block in some.pairs]).item()
        for some in (heavy, light)
    ]
    assert distances[0] < 0.8 * distances[1]
