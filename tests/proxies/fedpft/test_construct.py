"""Proxies have the backbone's own values, in every family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import attention_targets, blocks
from fedfm.params import Params
from fedfm.proxies.fedpft.construct import Kept, choose, compressed_blocks, counts, make_proxy, own_parameters
from fedfm.proxies.fedpft.settings import FedPFT
from fedfm.proxies.ffn import neurons, output_layer
from fedfm.proxies.pair import make_pair
from tests.models.cases import ALIKE, CASES, CUT_KINDS, Case, batch, load, logits

cases = pytest.mark.parametrize("case", CASES, ids="-".join)
all_cases = pytest.mark.parametrize("case", [*CASES, *ALIKE], ids="-".join)


def every_third(backbone: Backbone, keep_layers: list[int]) -> Kept:
    return {
        block.path: torch.arange(1, neurons(block), 3, dtype=torch.int64)
        for block in compressed_blocks(backbone, keep_layers)
    }


def state(backbone: Backbone) -> Params:
    return {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}


def equal(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def silence(backbone: Backbone, kept: Kept) -> None:
    """Makes the backbone compute what its proxy does: the output weights of all neurons not kept become zero."""
    for block in compressed_blocks(backbone, []):
        if block.path in kept:
            cut = torch.ones(neurons(block), dtype=torch.bool)
            cut[kept[block.path]] = False
            weight = output_layer(block).weight
            (weight if block.stack.ffn.transposed else weight.T)[cut] = 0


@pytest.mark.parametrize("case", [*CASES, *ALIKE, *CUT_KINDS], ids="-".join)
def test_a_proxy_with_every_neuron_is_the_backbone_bit_for_bit(case: Case) -> None:
    backbone = load(*case)
    compressed = compressed_blocks(backbone, [])
    scores = {block.path: torch.rand(neurons(block)) for block in compressed}
    proxy = make_proxy(backbone, choose(scores, counts(FedPFT(ffn_keep=1.0), compressed)))
    inputs = batch(backbone)
    assert torch.equal(logits(proxy.model, inputs), logits(backbone.model, inputs))


def lora_gradient(backbone: Backbone, inputs: dict[str, Tensor]) -> Tensor:
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=attention_targets(backbone.family), init_lora_weights=False)
    model: Any = get_peft_model(backbone.model, config).eval()
    model(**inputs).logits.square().sum().backward()
    return torch.cat([p.grad.flatten() for name, p in sorted(model.named_parameters()) if p.grad is not None])


@all_cases
def test_a_proxy_with_every_neuron_gives_loras_gradient_exactly(case: Case) -> None:
    backbone = load(*case)
    kept = {block.path: torch.arange(neurons(block)) for block in compressed_blocks(backbone, [])}
    proxy, inputs = make_proxy(backbone, kept), batch(backbone)
    gradient = lora_gradient(proxy, inputs)
    assert gradient.norm() > 0
    assert torch.equal(gradient, lora_gradient(backbone, inputs))


@pytest.mark.parametrize("case", [*CASES, *ALIKE, *CUT_KINDS], ids="-".join)
def test_a_proxy_computes_what_the_backbone_does_without_the_cut_neurons(case: Case) -> None:
    backbone = load(*case)
    kept = every_third(backbone, [])
    proxy, inputs = make_proxy(backbone, kept), batch(backbone)
    found = logits(proxy.model, inputs)
    silence(backbone, kept)
    torch.testing.assert_close(found, logits(backbone.model, inputs), rtol=1e-4, atol=1e-5)


@cases
def test_all_but_the_own_parameters_and_the_head_is_shared(case: Case) -> None:
    backbone = load(*case)
    kept = every_third(backbone, [0])
    proxy = make_proxy(backbone, kept)
    base = proxy.model.base_model
    own = own_parameters(proxy, kept)
    heads = [*backbone.family.heads, *backbone.family.language_heads]
    theirs = {id(tensor) for tensor in (*backbone.model.parameters(), *backbone.model.buffers())}
    new = {
        id(parameter)
        for name, parameter in proxy.model.named_parameters()
        if id(parameter) not in theirs and not any(name.startswith(f"{head}.") for head in heads)
    }
    assert new == {id(parameter) for parameter in own.values()}
    assert all(base.get_parameter(name) is parameter for name, parameter in own.items())
    assert all(id(buffer) in theirs for buffer in proxy.model.buffers())
    assert all(any(name.startswith(f"{path}.") for path in kept) for name in own)
    assert not any(parameter.requires_grad for parameter in proxy.model.parameters())
    assert not any(module.training for module in proxy.model.modules())


@cases
def test_nothing_done_to_a_proxy_reaches_the_backbone(case: Case) -> None:
    backbone = load(*case)
    before = state(backbone)
    kept = every_third(backbone, [])
    proxy = make_proxy(backbone, kept)
    heads = (*backbone.head, *backbone.family.language_heads)
    named = proxy.model.named_parameters()
    with torch.no_grad():
        for parameter in own_parameters(proxy, kept).values():
            parameter.zero_()
        for parameter in (parameter for name, parameter in named for head in heads if name.startswith(f"{head}.")):
            parameter.zero_()
    get_peft_model(proxy.model, LoraConfig(r=2, target_modules=attention_targets(proxy.family)))
    assert equal(state(backbone), before)
    assert [block.path for block in blocks(backbone.model, backbone.family)] == [
        block.path for block in blocks(proxy.model, proxy.family)
    ]


@cases
def test_own_parameters_are_the_same_under_a_tunable_of_the_ffn(case: Case) -> None:
    backbone = load(*case)
    kept = every_third(backbone, [])
    proxy = make_proxy(backbone, kept)
    before = own_parameters(proxy, kept)
    targets = [part.rsplit(".", 1)[-1] for stack in backbone.family.stacks for part in stack.ffn_matrices]
    get_peft_model(proxy.model, LoraConfig(r=2, target_modules=targets))
    after = own_parameters(proxy, kept)
    assert after.keys() == before.keys()
    assert all(after[name] is parameter for name, parameter in before.items())


def test_own_parameters_are_those_that_distillation_may_change() -> None:
    bert, llama = load("tiny-bert", "text"), load("tiny-llama", "text")
    assert sorted(own_parameters(bert, {"encoder.layer.1": torch.arange(4)})) == [
        f"encoder.layer.1.{name}"
        for name in (
            "intermediate.dense.bias",
            "intermediate.dense.weight",
            "output.LayerNorm.bias",
            "output.LayerNorm.weight",
            "output.dense.bias",
            "output.dense.weight",
        )
    ]
    assert sorted(own_parameters(llama, {"layers.0": torch.arange(4)})) == [
        f"layers.0.mlp.{name}.weight" for name in ("down_proj", "gate_proj", "up_proj")
    ]


def test_params_of_another_proxy_are_refused_and_nothing_is_written() -> None:
    model = make_pair(FedPFT(ffn_keep=0.25, keep_layers=[0]), load("tiny-bert", "text"), None, seed=0)
    before = model.read()
    model.write({name: tensor + 1 for name, tensor in before.items()})
    written = model.read()
    assert equal(written, {name: tensor + 1 for name, tensor in before.items()})
    bias = "encoder.layer.1.intermediate.dense.bias"
    for wrong in (
        {**before, bias: torch.ones(3)},
        {**before, "encoder.layer.0.output.dense.bias": torch.ones(16)},
        {bias: before[bias]},
    ):
        with pytest.raises(ValueError, match="another proxy's parameters"):
            model.write(wrong)
        assert equal(model.read(), written)


@pytest.mark.parametrize(
    ("keep_layers", "compressed"), [([], [0, 1]), ([0], [1]), ([-1], [0]), ([0, -1], []), ([-2, 0], [1])]
)
def test_layers_to_keep_count_from_either_end(keep_layers: list[int], compressed: list[int]) -> None:
    found = compressed_blocks(load("tiny-bert", "text"), keep_layers)
    assert [block.path for block in found] == [f"encoder.layer.{layer}" for layer in compressed]


def test_layers_to_keep_count_in_each_stack() -> None:
    config = transformers.CLIPConfig(
        text_config={"num_hidden_layers": 3, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2},
        vision_config={"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2},
    )
    clip = load("tiny-clip", "image")
    with torch.device("meta"):
        clip = replace(clip, model=transformers.CLIPModel(config))
    assert [block.path for block in compressed_blocks(clip, [-1])] == [
        "text_model.encoder.layers.0",
        "text_model.encoder.layers.1",
        "vision_model.encoder.layers.0",
    ]
    with pytest.raises(RecipeError, match=r"no layer 2: vision_model.encoder.layers .* has layers 0 to 1"):
        compressed_blocks(clip, [2])


@pytest.mark.parametrize("layer", [2, -3])
def test_a_layer_that_is_not_there_is_refused(layer: int) -> None:
    with pytest.raises(RecipeError, match=rf"proxy\.keep_layers: there is no layer {layer}: .* has layers 0 to 1"):
        compressed_blocks(load("tiny-bert", "text"), [0, layer])


@pytest.mark.parametrize(
    ("share", "align_to", "count"),
    [
        (0.25, 1, 8),
        (0.26, 1, 8),
        (1.0, 1, 32),
        (0.25, 3, 9),
        (0.1, 8, 8),
        (0.33, 8, 8),
        (0.45, 8, 16),
        (0.5, 64, 32),
        (0.9, 12, 24),
        (1.0, 12, 32),
    ],
)
def test_count_is_a_share_rounded_to_a_multiple(share: float, align_to: int, count: int) -> None:
    compressed = compressed_blocks(load("tiny-bert", "text"), [0])
    kept = choose({"encoder.layer.1": torch.rand(32)}, counts(FedPFT(ffn_keep=share, align_to=align_to), compressed))
    assert [len(indices) for indices in kept.values()] == [count]


def test_the_highest_scores_stay_in_order_and_the_first_of_equal_ones() -> None:
    compressed = compressed_blocks(load("tiny-bert", "text"), [0])
    scores = torch.zeros(32)
    scores[torch.tensor([30, 7, 19])] = torch.tensor([3.0, 2.0, 1.0])
    kept = choose({"encoder.layer.1": scores}, counts(FedPFT(ffn_keep=0.2), compressed))["encoder.layer.1"]
    assert kept.tolist() == [0, 1, 2, 7, 19, 30]
    assert kept.dtype == torch.int64


def test_every_layer_may_have_its_share() -> None:
    compressed = compressed_blocks(load("tiny-bert", "text"), [])
    scores = {block.path: torch.rand(32) for block in compressed}
    kept = choose(scores, counts(FedPFT(ffn_keep=[0.25, 0.5], keep_layers=[]), compressed))
    assert [len(indices) for indices in kept.values()] == [8, 16]


@pytest.mark.parametrize(
    ("settings", "layers", "message"),
    [
        (FedPFT(ffn_keep=[0.5]), [], r"proxy\.ffn_keep: 1 shares for 2 compressed layers"),
        (FedPFT(ffn_keep=0.01), [0], r"proxy\.ffn_keep: 0\.01 of 32 neurons leaves none; keep at least 0\.031"),
        (FedPFT(), [0, 1], r"proxy\.keep_layers: every layer stays whole"),
    ],
)
def test_what_leaves_nothing_is_refused(settings: FedPFT, layers: list[int], message: str) -> None:
    compressed = compressed_blocks(load("tiny-bert", "text"), layers)
    scores = {block.path: torch.rand(32) for block in compressed}
    with pytest.raises(RecipeError, match=message):
        choose(scores, counts(settings, compressed))


def test_a_proxy_that_keeps_every_layer_and_neuron_is_the_backbone() -> None:
    assert choose({}, counts(FedPFT(ffn_keep=1.0), [])) == {}
