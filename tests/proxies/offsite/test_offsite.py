"""Offsite tuning: which layers stay, what they share with the backbone, and where tuned parameters are plugged in."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import Block, blocks
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import IA3, BitFit, Dora, Full, Head, Lora, Prompt, TuneSettings
from fedfm.params import Params
from fedfm.proxies.offsite.layers import (
    Layers,
    choose_layers,
    emulator_pair,
    emulator_parameters,
    make_offsite,
    with_adapters,
)
from fedfm.proxies.offsite.settings import Offsite
from fedfm.proxies.plugin import plug_in_map
from tests.models.cases import CASES, TASKS, Case, batch, load, logits
from tests.models.deep import deep, of_model

ONE_STACK = [case for case in CASES if case[0] != "tiny-t5"]
cases = pytest.mark.parametrize("case", ONE_STACK, ids="-".join)
SEVEN = Layers((0, 1), (2, 3), (5, 6))
"""Layer 4 of seven is dropped: the proxy's layers 4 and 5 are the backbone's 5 and 6."""


def meta(kind: type[Any], config: Any) -> Backbone:
    with torch.device("meta"):
        model = kind(config)
    return of_model(model, load("tiny-bert", "text"))


def parameters_of(found: list[Block]) -> int:
    return sum(parameter.numel() for block in found for parameter in block.module.parameters())


# which layers


def test_bert_base_keeps_the_seven_layers_of_fedot() -> None:
    """47M "Transformers Params" in arXiv:2404.11536, Table 1: 49 615 104 / 2²⁰ = 47.3."""
    for kind, config in (
        (BertForSequenceClassification, BertConfig()),
        (RobertaForSequenceClassification, RobertaConfig()),
    ):
        backbone = meta(kind, config)
        found = blocks(backbone.model, backbone.family)
        assert parameters_of(found) == 85_054_464
        layers = choose_layers(backbone, Offsite())
        assert layers == Layers((0, 1), (2, 6, 9), (10, 11))
        assert parameters_of([found[layer] for layer in layers.kept]) == 49_615_104
        proxy = make_offsite(backbone, layers)
        assert parameters_of(blocks(proxy.model, proxy.family)) == 49_615_104
        assert proxy.model.config.num_hidden_layers == 7
        assert choose_layers(backbone, Offsite(adapters=1)) == Layers((0,), (1, 3, 5, 8, 10), (11,))


@pytest.mark.parametrize(
    ("total", "layers", "adapters", "expected"),
    [
        (12, 12, 2, Layers((0, 1), (2, 3, 4, 5, 6, 7, 8, 9), (10, 11))),
        (12, 5, 2, Layers((0, 1), (5,), (10, 11))),
        (5, 3, 1, Layers((0,), (2,), (4,))),
        (24, 12, 2, Layers((0, 1), (2, 5, 7, 10, 13, 16, 18, 21), (22, 23))),  # OPT-1.3B of arXiv:2302.04870
    ],
)
def test_the_emulator_is_evenly_spaced(total: int, layers: int, adapters: int, expected: Layers) -> None:
    backbone = deep("tiny-bert", "text", total)
    assert choose_layers(backbone, Offsite(layers=layers, adapters=adapters)) == expected


@pytest.mark.parametrize("total", range(3, 15))
def test_layers_are_distinct_ascending_and_end_where_the_model_does(total: int) -> None:
    backbone = meta(BertForSequenceClassification, BertConfig(num_hidden_layers=total))
    for adapters in range(1, (total - 1) // 2 + 1):
        for count in range(2 * adapters + 1, total + 1):
            layers = choose_layers(backbone, Offsite(layers=count, adapters=adapters))
            assert len(layers.kept) == count
            assert sorted({*layers.kept}) == list(layers.kept)
            assert layers.first == tuple(range(adapters))
            assert layers.last == tuple(range(total - adapters, total))
            if len(layers.emulator) > 1:
                assert (layers.emulator[0], layers.emulator[-1]) == (adapters, total - adapters - 1)


@pytest.mark.parametrize(("ffn_keep", "keep_layers"), [(0.25, [0, -1]), (0.5, []), (1.0, []), (0.75, [0, 1, 2])])
@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-llama"])
def test_no_other_count_comes_closer_to_fedpft_in_parameters(
    name: str, ffn_keep: float, keep_layers: list[int]
) -> None:
    backbone = deep(name, "text", 9)
    found = blocks(backbone.model, backbone.family)
    whole = parameters_of(found[:1])
    gated = name == "tiny-llama"
    neuron = 3 * 16 if gated else 2 * 16 + 1  # input vectors and bias, output vector
    compressed = whole - round((1 - ffn_keep) * 32) * neuron
    wanted = len(keep_layers) * whole + (9 - len(keep_layers)) * compressed
    count = len(choose_layers(backbone, Offsite(adapters=1, ffn_keep=ffn_keep, keep_layers=keep_layers)).kept)
    assert abs(count * whole - wanted) == min(abs(other * whole - wanted) for other in range(1, 10))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Offsite(layers=7), r"proxy\.layers: made-here has only 6 layers"),
        (Offsite(layers=4), r"proxy\.layers: 4 layers leave none for the emulator between 2 at each end; .* 5 to 6"),
        (Offsite(), r"proxy\.adapters: 4 layers, .* FedPFT's proxy, leave none .* fewer `proxy.adapters`.* 5 to 6"),
        (Offsite(adapters=3), r"proxy\.adapters: .* each end; set fewer `proxy.adapters`$"),
        (Offsite(keep_layers=[6]), r"proxy\.keep_layers: there is no layer 6"),
    ],
)
def test_too_few_layers_are_refused_with_what_to_do(settings: Offsite, reason: str) -> None:
    """MiniLM: 7.1 of 10.65 million parameters, as 4 of its 6 layers have."""
    shape = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    with pytest.raises(RecipeError, match=reason):
        choose_layers(meta(BertForSequenceClassification, shape), settings)


def test_two_stacks_are_refused() -> None:
    backbone = deep("tiny-clip", "image", 4)
    config: Any = CLIPConfig()
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = 2
    with torch.device("meta"):
        both = replace(backbone, model=CLIPModel(config))
    with pytest.raises(RecipeError, match=r"proxy\.kind: .* more than one stack"):
        choose_layers(both, Offsite(layers=3, adapters=1))
    assert choose_layers(backbone, Offsite(layers=3, adapters=1)).kept == (0, 1, 3)  # its images have one


# the proxy


@cases
def test_with_every_layer_it_is_the_backbone_bit_for_bit(case: Case) -> None:
    backbone = deep(*case, 4)
    proxy = make_offsite(backbone, Layers((0,), (1, 2), (3,)))
    inputs = batch(backbone)
    assert torch.equal(logits(proxy.model, inputs), logits(backbone.model, inputs))


@cases
def test_it_computes_what_a_model_of_those_layers_computes(case: Case) -> None:
    """The oracle: a model built with as many layers, and the kept layers' weights loaded into it."""
    backbone = deep(*case, 7)
    proxy = make_offsite(backbone, SEVEN)
    shallow = deep(*case, len(SEVEN.kept))
    source = [block.module.state_dict() for block in blocks(backbone.model, backbone.family)]
    rest = backbone.model.state_dict()
    shallow.model.load_state_dict({name: rest[name] for name in shallow.model.state_dict()})
    for layer, block in zip(SEVEN.kept, blocks(shallow.model, shallow.family), strict=True):
        block.module.load_state_dict(source[layer])
    assert proxy.model.state_dict().keys() == shallow.model.state_dict().keys()
    inputs = batch(backbone)
    assert torch.equal(logits(proxy.model, inputs), logits(shallow.model, inputs))
    mine, expected = proxy.model.config.to_dict(), shallow.model.config.to_dict()
    assert {**mine, "text_config": None} == {
        **expected,
        "text_config": None,
    }  # CLIP's text, which has no part in images


@cases
def test_the_emulator_alone_is_its_own(case: Case) -> None:
    backbone = deep(*case, 7)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    configured = backbone.model.config.to_dict()
    proxy = make_offsite(backbone, SEVEN)
    shared = {id(parameter) for parameter in backbone.model.parameters()}
    own = [parameter for parameter in proxy.model.parameters() if id(parameter) not in shared]
    emulator = emulator_parameters(proxy, SEVEN)
    assert {id(parameter) for parameter in own} == {id(parameter) for parameter in emulator.values()}
    base = dict(proxy.model.base_model.named_parameters())
    assert all(base[name] is parameter for name, parameter in emulator.items())
    with torch.no_grad():
        for parameter in own:
            parameter.add_(1)
    after = backbone.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert backbone.model.config.to_dict() == configured
    assert backbone.tunable_blocks is None


def test_the_emulator_is_held_against_all_that_it_stands_for() -> None:
    backbone = deep("tiny-gpt2", "causal", 7)
    layers = Layers((0,), (1, 4), (6,))
    proxy = make_offsite(backbone, layers)
    teacher, student = emulator_pair(backbone, proxy, layers)
    assert (teacher.path, student.path) == ("h.5", "h.2")
    assert teacher.module is backbone.model.transformer.h[5]
    assert student.module is proxy.model.transformer.h[2]
    assert torch.equal(student.module.mlp.c_fc.weight, backbone.model.transformer.h[4].mlp.c_fc.weight)


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama", "tiny-opt"])
def test_a_cache_holds_a_place_for_each_kept_layer(name: str) -> None:
    """Attention looks its keys and values up by the layer's number."""
    backbone = deep(name, "causal", 7)
    proxy = make_offsite(backbone, SEVEN)
    tokens = torch.arange(3, 11)[None]
    model = proxy.model.eval()
    with torch.no_grad():
        whole = model(input_ids=tokens).logits
        first = model(input_ids=tokens[:, :5], use_cache=True)
        second = model(input_ids=tokens[:, 5:], past_key_values=first.past_key_values, use_cache=True)
    assert len(second.past_key_values.layers) == 6
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, atol=1e-5, rtol=1e-5)
    numbers = [module.layer_idx for module in backbone.model.modules() if hasattr(module, "layer_idx")]
    assert numbers == list(range(7))


def test_layers_keep_the_kind_of_attention_they_have() -> None:
    config = Qwen2Config(
        vocab_size=261,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=2,
        max_window_layers=4,
    )
    torch.manual_seed(0)
    backbone = of_model(Qwen2ForCausalLM(config), load("tiny-llama", "causal"))
    proxy = make_offsite(backbone, Layers((0,), (2,), (5,)))
    assert proxy.model.config.layer_types == ["full_attention", "full_attention", "sliding_attention"]
    assert len(backbone.model.config.layer_types) == 6
    assert logits(proxy.model, batch(backbone)).isfinite().all()


# plugged in


class Pair:
    """A backbone of seven layers, its offsite proxy of six, and the same tunable on both."""

    def __init__(self, tune: TuneSettings, case: Case, *, silent: bool = False) -> None:
        whole = deep(*case, 7)
        if silent:
            _silence(blocks(whole.model, whole.family)[4])
        self.proxy = make_offsite(whole, SEVEN)
        self.backbone = with_adapters(whole, SEVEN)
        self.of_backbone = tune.attach(self.backbone, task_type=TASKS[case[1]].task_type, seed=0)
        self.of_proxy = tune.attach(self.proxy, task_type=TASKS[case[1]].task_type, seed=0)
        self.map = plug_in_map(self.of_proxy, self.of_backbone, self.proxy, self.backbone, {}, SEVEN.kept)


def _silence(block: Block) -> None:
    """A block with norms before its parts hands on what it got: both parts add nothing."""
    for path in (block.stack.attention[0].output, block.stack.ffn.output):
        for parameter in block.module.get_submodule(path).parameters():
            parameter.data.zero_()


def tuned(tunable: Tunable) -> Params:
    torch.manual_seed(0)
    return {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in tunable.read().items()}


PRE_NORM: list[Case] = [
    *[(f"tiny-{name}", "causal") for name in ("gpt2", "opt", "llama")],
    *[(f"tiny-{name}", "image") for name in ("vit", "clip")],
]
TUNES: list[TuneSettings] = [Lora(r=2, target_modules="all"), Dora(r=2, target_modules="ffn"), IA3(), BitFit(), Full()]


@pytest.mark.parametrize(
    ("tune", "case"),
    [cell for cell in product(TUNES, PRE_NORM) if (cell[0].kind, cell[1][0]) != ("bitfit", "tiny-llama")],  # no biases
    ids=lambda value: value.kind if isinstance(value, TuneSettings) else "-".join(value),
)
def test_where_dropped_layers_do_nothing_the_backbone_computes_what_the_proxy_learned(
    tune: TuneSettings, case: Case
) -> None:
    pair = Pair(tune, case, silent=True)
    inputs = batch(pair.backbone)
    params = tuned(pair.of_proxy)
    before = logits(pair.of_backbone.model, inputs)
    pair.of_proxy.write(params)
    assert torch.equal(logits(pair.of_backbone.model, inputs), before)  # nothing tuned is shared
    pair.of_backbone.write(pair.map.to_backbone(params))
    expected = logits(pair.of_proxy.model, inputs)
    torch.testing.assert_close(logits(pair.of_backbone.model, inputs), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(pair.of_backbone.merged(), inputs), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-3)


def test_an_adapter_layer_goes_back_to_its_number() -> None:
    pair = Pair(Lora(r=2), ("tiny-bert", "text"))
    there = pair.map.to_backbone(tuned(pair.of_proxy))
    at = "base_model.model.bert.encoder.layer."
    found = {name.removeprefix(at).split(".")[0] for name in there if name.startswith(at)}
    assert found == {"0", "1", "5", "6"}
    for name, tensor in tuned(pair.of_proxy).items():
        expected = name.replace("layer.5.", "layer.6.").replace("layer.4.", "layer.5.")
        assert torch.equal(there[expected], tensor)
    assert "base_model.model.classifier.weight" in there
    back = pair.map.to_proxy(there)
    assert all(torch.equal(back[name], tensor) for name, tensor in tuned(pair.of_proxy).items())


def test_merged_no_layer_but_the_adapters_changes() -> None:
    pair = Pair(Lora(r=2, target_modules="all"), ("tiny-bert", "text"))
    before: dict[str, Tensor] = deep("tiny-bert", "text", 7).model.state_dict()
    pair.of_backbone.write(pair.map.to_backbone(tuned(pair.of_proxy)))
    after = pair.of_backbone.merged().state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[3] for name in changed if "layer." in name} == {"0", "1", "5", "6"}
    assert {name for name in changed if "layer." not in name} == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("tune", [Head(), Prompt(num_virtual_tokens=2)], ids=lambda tune: tune.kind)
def test_head_and_prompt_are_in_no_layer(tune: TuneSettings) -> None:
    pair = Pair(tune, ("tiny-bert", "text"))
    params = tuned(pair.of_proxy)
    there = pair.map.to_backbone(params)
    assert there.keys() == params.keys()
    assert all(torch.equal(there[name], params[name]) for name in params)


def test_patterns_that_number_layers_are_refused_where_numbers_differ() -> None:
    Pair(Lora(target_modules=r".*layer\.[01]\..*query"), ("tiny-bert", "text"))  # the same layers in both
    with pytest.raises(RecipeError, match=r"tune\.target_modules: .* name parts of layers without their numbers"):
        Pair(Lora(target_modules=r".*layer\.[0-5]\..*query"), ("tiny-bert", "text"))
