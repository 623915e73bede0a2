"""Counts equal those of the paper; memory and disclosure equal a hand count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from fedfm.models.backbones import Backbone
from fedfm.models.families import FAMILIES, blocks, family_of
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.lora import Lora
from fedfm.proxies.fedpft.construct import compressed_blocks, make_proxy
from fedfm.proxies.ffn import keep_neurons
from fedfm.proxies.sizes import block_parameters, forward_flops, training_memory
from tests.models.cases import CASES, load

cases = pytest.mark.parametrize("case", CASES, ids="-".join)
SHAPES: list[tuple[Any, Any]] = [
    (hf.BertModel, hf.BertConfig()),
    (hf.RobertaModel, hf.RobertaConfig()),
    (hf.ViTModel, hf.ViTConfig()),
]
shapes = pytest.mark.parametrize(("model_class", "config"), SHAPES, ids=["bert", "roberta", "vit"])


def on_meta(model_class: Any, config: Any) -> Any:
    with torch.device("meta"):
        return model_class(config)


def compress(model: Any, keep_layers: set[int]) -> None:
    for layer, block in enumerate(blocks(model, family_of(model.config))):
        if layer not in keep_layers:
            keep_neurons(block, torch.arange(768, device="meta"))


@shapes
def test_blocks_have_the_papers_counts(model_class: Any, config: Any) -> None:
    """arXiv:2404.11536, Tables 1 and 2: 81 M and 47 M, in units of 2²⁰."""
    model = on_meta(model_class, config)
    family = family_of(config)
    assert block_parameters(model, family) == 85_054_464
    compress(model, {0, 11})
    assert block_parameters(model, family) == 49_641_984
    compressed = blocks(model, family)[1].module
    assert sum(weight.numel() for weight in compressed.parameters()) == 3_546_624


@shapes
def test_seven_whole_layers_have_the_papers_count(model_class: Any, config: Any) -> None:
    config = type(config)(num_hidden_layers=7)
    assert block_parameters(on_meta(model_class, config), family_of(config)) == 49_615_104


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2"])
def test_an_adapter_is_not_counted(name: str) -> None:
    backbone = load(name, "text")
    before = block_parameters(backbone.model, backbone.family)
    tunable = Lora(target_modules="all").attach(backbone, task_type="SEQ_CLS", seed=0)
    assert sum(parameter.numel() for parameter in tunable.parameters.values()) > 0
    assert block_parameters(backbone.model, backbone.family) == before


def test_flops_of_bert_base_are_those_of_its_matrices() -> None:
    """12 layers of 4·d² + 2·d·4d weights, two operations each a token, and 4·T²·d for scores."""
    model = on_meta(hf.BertModel, hf.BertConfig())
    d, tokens = 768, 128
    whole = 2 * tokens * (4 * d * d + 8 * d * d) + 4 * tokens**2 * d
    assert forward_flops(model, FAMILIES["bert"], tokens) == 12 * whole
    compress(model, {0, 11})
    cut = 2 * tokens * (4 * d * d + 2 * d * 768) + 4 * tokens**2 * d
    assert forward_flops(model, FAMILIES["bert"], tokens) == 2 * whole + 10 * cut


def test_flops_of_transposed_fused_and_grouped_matrices() -> None:
    gpt2 = on_meta(hf.GPT2Model, hf.GPT2Config(n_embd=16, n_layer=3, n_head=2, n_inner=40))
    assert forward_flops(gpt2, FAMILIES["gpt2"], 5) == 3 * (2 * 5 * (16 * 48 + 16 * 16 + 2 * 16 * 40) + 4 * 25 * 16)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "head_dim": 6,
    }
    llama = on_meta(hf.LlamaModel, hf.LlamaConfig(**sizes, num_key_value_heads=1, vocab_size=50))
    attention = 16 * 12 + 2 * 16 * 6 + 12 * 16
    assert forward_flops(llama, FAMILIES["llama"], 5) == 3 * (2 * 5 * (attention + 3 * 16 * 40) + 4 * 25 * 12)


class TwoLayers(nn.Module):
    """A frozen layer, GELU, and a trained layer: GELU keeps its input, the trained layer its own."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 50).requires_grad_(False)
        self.first = nn.Linear(3, 3, bias=False)
        self.last = nn.Linear(50, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)  # keeps x, which is the batch's
        out: Tensor = self.last(nn.functional.gelu(self.frozen(hidden)))
        return out


def test_training_memory_is_what_a_hand_count_gives() -> None:
    model: Any = TwoLayers()
    tunable = Tunable(model, {"first": model.first.weight, "last": model.last.weight})
    found = training_memory(tunable, {"x": torch.ones(7, 3)})
    assert found.weights == 4 * (9 + 50 * 3 + 50 + 100)
    assert found.activations == 4 * 7 * (50 + 50)
    assert found.optimiser == 3 * 4 * (9 + 100)
    assert found.total == found.weights + found.activations + found.optimiser


def lora(backbone: Backbone) -> Tunable:
    return Lora(r=2).attach(backbone, task_type="SEQ_CLS", seed=0)


def examples(count: int) -> dict[str, Tensor]:
    return {"input_ids": torch.ones(count, 20, dtype=torch.int64), "attention_mask": torch.ones(count, 20).long()}


def test_training_memory_of_a_proxy_lacks_the_cut_neurons() -> None:
    backbone = load("tiny-bert", "text")
    kept = {block.path: torch.arange(8) for block in compressed_blocks(backbone, [])}
    proxy = lora(make_proxy(backbone, kept))
    small = training_memory(proxy, examples(3))
    full = training_memory(lora(backbone), examples(3))
    layers, cut, d, positions = 2, 32 - 8, 16, 3 * 20
    assert full.weights - small.weights == 4 * layers * cut * (2 * d + 1)
    assert full.optimiser == small.optimiser
    assert full.activations - small.activations == 4 * layers * cut * positions  # GELU's input


def test_training_memory_grows_with_the_batch_and_leaves_the_tunable_alone() -> None:
    tunable = lora(load("tiny-bert", "text"))
    before, state = tunable.read(), torch.random.get_rng_state()
    one, four = (training_memory(tunable, examples(count)) for count in (1, 4))
    assert (four.weights, four.optimiser) == (one.weights, one.optimiser)
    assert four.activations == pytest.approx(4 * one.activations, rel=0.02)
    assert all(torch.equal(before[name], tensor) for name, tensor in tunable.read().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module.training for module in tunable.model.modules())
    assert all(parameter.grad is None for parameter in tunable.model.parameters())
