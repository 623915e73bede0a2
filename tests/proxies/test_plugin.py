"""Parameters tuned on a proxy are written to their places in the backbone, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Phi3Config, Phi3ForCausalLM

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import FFN, Attention, Family, Stack, blocks
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import IA3, BitFit, Dora, Full, Head, Lora, Prefix, Prompt, TuneSettings
from fedfm.params import Params
from fedfm.proxies import NoProxy
from fedfm.proxies.fedpft.construct import Kept, make_proxy
from fedfm.proxies.fedpft.settings import FedPFT
from fedfm.proxies.ffn import neurons, output_layer
from fedfm.proxies.plugin import PlugIn, plug_in_map
from tests.models.cases import CASES, CUT_KINDS, TASKS, Case, batch, load, logits

S = torch.tensor([0, 3, 4, 9, 17, 30, 31])
"""Neurons that stay, of 32."""
cases = pytest.mark.parametrize("case", CASES, ids="-".join)


class Pair:
    """A backbone, its proxy with the second layer compressed, and the same tunable on both."""

    def __init__(self, tune: TuneSettings, backbone: Backbone, task: str, *, silent: bool = False) -> None:
        self.backbone = backbone
        *_, last = blocks(backbone.model, backbone.family)
        assert neurons(last) == 32
        self.kept: Kept = {last.path: S}
        if silent:
            _silence(output_layer(last).weight.detach(), last.stack.ffn.transposed)
        self.proxy = make_proxy(backbone, self.kept)
        self.of_backbone = tune.attach(backbone, task_type=TASKS[task].task_type, seed=0)
        self.of_proxy = tune.attach(self.proxy, task_type=TASKS[task].task_type, seed=1)
        self.last = last

    def map(self) -> PlugIn:
        return plug_in_map(self.of_proxy, self.of_backbone, self.proxy, self.backbone, self.kept)


def _silence(weight: Tensor, transposed: bool) -> None:
    """Output weights of the neurons that the proxy cuts become zero: then proxy and backbone compute the same."""
    cut = torch.ones(32, dtype=torch.bool)
    cut[S] = False
    (weight if transposed else weight.T)[cut] = 0


def tuned(tunable: Tunable) -> Params:
    """As if training had moved every value."""
    torch.manual_seed(0)
    return {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in tunable.read().items()}


@pytest.mark.parametrize(
    ("case", "targets"),
    [*product(CASES, ["attention", "ffn", "all"]), *product(CUT_KINDS, ["all"])],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_where_cut_neurons_do_nothing_the_backbone_computes_what_the_proxy_learned(case: Case, targets: str) -> None:
    pair = Pair(Lora(r=3, lora_alpha=5, target_modules=targets), load(*case), case[1], silent=True)
    inputs = batch(pair.backbone)
    params = tuned(pair.of_proxy)
    pair.of_proxy.write(params)
    before = logits(pair.of_backbone.model, inputs)
    pair.of_backbone.write(pair.map().to_backbone(params))
    expected = logits(pair.of_proxy.model, inputs)
    torch.testing.assert_close(logits(pair.of_backbone.model, inputs), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(pair.of_backbone.merged(), inputs), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("case", "inputs", "output", "transposed"),
    [
        (
            ("tiny-bert", "text"),
            ["bert.encoder.layer.1.intermediate.dense"],
            "bert.encoder.layer.1.output.dense",
            False,
        ),
        (("tiny-gpt2", "causal"), ["transformer.h.1.mlp.c_fc"], "transformer.h.1.mlp.c_proj", True),
        (
            ("tiny-llama", "causal"),
            ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"],
            "model.layers.1.mlp.down_proj",
            False,
        ),
    ],
)
def test_merged_only_rows_and_columns_of_kept_neurons_change(
    case: Case, inputs: list[str], output: str, transposed: bool
) -> None:
    """arXiv:2502.13533: ΔW₁[S, :] = s·B A and ΔW₂[:, S] = s·B A, with s = 5/3."""
    pair = Pair(Lora(r=3, lora_alpha=5, target_modules="ffn"), load(*case), case[1])
    params = tuned(pair.of_proxy)
    pair.of_backbone.write(pair.map().to_backbone(params))
    before, after = load(*case).model.state_dict(), pair.of_backbone.merged().state_dict()

    def change(module: str) -> Tensor:
        difference: Tensor = after[f"{module}.weight"] - before[f"{module}.weight"]
        return difference.T if transposed else difference

    def update(module: str) -> Tensor:
        at = f"base_model.model.{module}."
        return 5 / 3 * params[f"{at}lora_B.weight"] @ params[f"{at}lora_A.weight"]

    for module in inputs:
        expected = torch.zeros(32, 16)
        expected[S, :] = update(module)
        torch.testing.assert_close(change(module), expected, atol=1e-6, rtol=1e-5)
    expected = torch.zeros(16, 32)
    expected[:, S] = update(output)
    torch.testing.assert_close(change(output), expected, atol=1e-6, rtol=1e-5)


def test_where_gate_and_up_are_one_matrix_both_halves_are_scattered() -> None:
    stack = Stack(
        "layers",
        attention=(Attention("self_attn.qkv_proj", "self_attn.qkv_proj", "self_attn.qkv_proj", "self_attn.o_proj"),),
        ffn=FFN(("mlp.gate_up_proj",), "mlp.down_proj", fused=True),
        norms=("input_layernorm", "post_attention_layernorm"),
    )
    family = Family("phi3", ("phi3",), (stack,), ("embed_tokens",), causal=True)
    config: Any = Phi3Config(
        vocab_size=261,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config).eval().requires_grad_(False)
    backbone = replace(load("tiny-llama", "causal"), model=model, family=family)
    pair = Pair(Lora(r=3, target_modules="ffn"), backbone, "causal", silent=True)
    params = tuned(pair.of_proxy)
    pair.of_proxy.write(params)
    there = pair.map().to_backbone(params)
    pair.of_backbone.write(there)
    inputs = batch(backbone)
    torch.testing.assert_close(logits(pair.of_backbone.model, inputs), logits(pair.of_proxy.model, inputs))
    scattered = there["base_model.model.model.layers.1.mlp.gate_up_proj.lora_B.weight"]
    assert scattered.shape == (64, 3)
    rows = {row for row in range(64) if scattered[row].any()}
    assert rows == {*S.tolist(), *(S + 32).tolist()}


@pytest.mark.parametrize(
    ("tune", "case"),
    [
        (Lora(), ("tiny-bert", "text")),
        (Dora(), ("tiny-gpt2", "causal")),
        (Dora(), ("tiny-vit", "image")),
        (Head(), ("tiny-vit", "image")),
        (Prompt(num_virtual_tokens=2), ("tiny-gpt2", "causal")),
        (Prefix(num_virtual_tokens=2), ("tiny-llama", "causal")),
        (IA3(target_modules=["query", "key"]), ("tiny-bert", "text")),
    ],
    ids=lambda value: value.kind if isinstance(value, TuneSettings) else "-".join(value),
)
def test_what_is_tuned_outside_ffns_has_the_same_names_and_values(tune: TuneSettings, case: Case) -> None:
    pair = Pair(tune, load(*case), case[1])
    params = tuned(pair.of_proxy)
    there = pair.map().to_backbone(params)
    assert list(there) == list(params)
    assert all(torch.equal(there[name], params[name]) for name in params)


@pytest.mark.parametrize("targets", ["attention", "ffn", "all"])
@cases
def test_to_proxy_undoes_to_backbone(case: Case, targets: str) -> None:
    pair = Pair(Lora(r=2, target_modules=targets), load(*case), case[1])
    params, plug_in = tuned(pair.of_proxy), pair.map()
    back = plug_in.to_proxy(plug_in.to_backbone(params))
    assert back.keys() == params.keys()
    assert all(torch.equal(back[name], params[name]) for name in params)


def test_to_proxy_takes_the_kept_neurons_of_the_backbones_start() -> None:
    pair = Pair(Lora(r=2, target_modules="all"), load("tiny-bert", "text"), "text")
    start = pair.of_backbone.read()
    taken = pair.map().to_proxy(start)
    name = "base_model.model.bert.encoder.layer.1.output.dense.lora_A.weight"
    assert torch.equal(taken[name], start[name][:, S])
    whole = name.replace("layer.1", "layer.0")
    assert torch.equal(taken[whole], start[whole])
    pair.of_proxy.write(taken)  # fits


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_the_backbones_own_weights_stay_bit_equal(targets: str) -> None:
    pair = Pair(Lora(r=4, target_modules=targets), load("tiny-bert", "text"), "text")
    mine = {id(parameter) for parameter in pair.of_backbone.parameters.values()}
    frozen = {name: p for name, p in pair.of_backbone.model.named_parameters() if id(p) not in mine}
    before = {name: parameter.clone() for name, parameter in frozen.items()}
    pair.of_proxy.write(tuned(pair.of_proxy))
    pair.of_backbone.write(pair.map().to_backbone(pair.of_proxy.read()))
    pair.of_backbone.merged()
    assert all(torch.equal(frozen[name], before[name]) for name in frozen)


@pytest.mark.parametrize(
    ("tune", "name", "key"),
    [
        (Full(), "tiny-bert", "tune.kind"),
        (BitFit(), "tiny-bert", "tune.kind"),
        (BitFit(), "tiny-gpt2", "tune.kind"),
        (IA3(), "tiny-bert", "tune.kind"),
        (Dora(r=4, target_modules="ffn"), "tiny-bert", "tune.target_modules"),
        (
            Dora(r=4, target_modules=["output.dense"]),
            "tiny-bert",
            "tune.target_modules",
        ),  # its lengths would fit, and lie
    ],
    ids=lambda value: value.kind if isinstance(value, TuneSettings) else str(value),
)
def test_what_counts_cut_neurons_is_refused_with_what_to_do(tune: TuneSettings, name: str, key: str) -> None:
    pair = Pair(tune, load(name, "text"), "text")
    with pytest.raises(RecipeError, match=f"{key}: .*1.*targets neurons that the proxy cuts; use lora") as caught:
        pair.map()
    assert "or all) or head" in str(caught.value)


def test_tunables_that_do_not_pair_off_are_refused() -> None:
    pair = Pair(Lora(target_modules=["query", "key"]), load("tiny-bert", "text"), "text")
    other = load("tiny-bert", "text")
    narrower = Lora(target_modules=["query"]).attach(other, task_type="SEQ_CLS", seed=0)
    with pytest.raises(RecipeError, match=r"tune\.target_modules: .*key.* in only one of proxy and backbone"):
        plug_in_map(pair.of_proxy, narrower, pair.proxy, other, pair.kept)
    with pytest.raises(RecipeError, match=r"tune\.target_modules: .*key.* in only one of proxy and backbone"):
        plug_in_map(narrower, pair.of_proxy, other, pair.proxy, {})


REFUSED: list[tuple[TuneSettings, Any]] = [
    *product([Full(), BitFit(), IA3(), Dora(target_modules="ffn"), Dora(target_modules="all")], [FedPFT()]),
    *product([Prompt(), Prefix()], [FedPFT()]),
]
ACCEPTED: list[tuple[TuneSettings, Any]] = [
    *product([Lora(), Lora(target_modules="all"), Dora(), Head()], [FedPFT()]),
    *product([Prompt(), Prefix()], [FedPFT(interval=None)]),
    *product([Full(), BitFit(), IA3(), Prefix(), Dora(target_modules="all")], [NoProxy()]),
]


@pytest.mark.parametrize(("tune", "proxy"), REFUSED, ids=lambda value: value.kind)
def test_the_recipe_alone_tells_what_cannot_be_plugged_in(tune: TuneSettings, proxy: Any) -> None:
    assert "use lora" in (proxy.refuses(tune) or "")


@pytest.mark.parametrize("tune", [Prompt(), Prefix()], ids=lambda value: value.kind)
def test_what_alignment_would_not_see_is_refused(tune: TuneSettings) -> None:
    """Spec 9.1 B2: the proxy would be aligned with a backbone on which nothing is tuned."""
    reason = FedPFT(interval=3).refuses(tune) or ""
    assert f"`{tune.kind}` is not seen by alignment" in reason
    assert "proxy.interval=null" in reason


@pytest.mark.parametrize(("tune", "proxy"), ACCEPTED, ids=lambda value: value.kind)
def test_the_recipe_alone_refuses_nothing_else(tune: TuneSettings, proxy: Any) -> None:
    assert proxy.refuses(tune) is None
