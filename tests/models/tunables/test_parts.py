"""Norms, selected layers and p-tuning: sizes by hand, formulas, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from fedfm.errors import RecipeError
from fedfm.models.families import blocks
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Norms, PTuning, TuneSettings, WholeLayers
from fedfm.proxies import PROXIES
from tests.models.cases import TASKS, Case, batch, load, logits
from tests.models.kinds import KINDS

BERT: Case = ("tiny-bert", "text")


def attach(settings: TuneSettings, case: Case = BERT) -> Tunable:
    return settings.attach(load(*case), task_type=TASKS[case[1]].task_type, seed=0)


def size(tunable: Tunable, part: str) -> int:
    return sum(tensor.numel() for name, tensor in tunable.read().items() if part in name)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (BERT, 2 * 2 * 2 * 16),  # blocks · norms · (weight, bias) · width
        (("tiny-llama", "causal"), 2 * 2 * 16),  # no biases
        (("tiny-t5", "text"), 2 * 2 * 16 + 2 * 3 * 16),  # two norms in the encoder's blocks, three in the decoder's
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_norms_have_a_weight_a_feature(case: Case, expected: int) -> None:
    assert size(attach(Norms(), case), "ln_tuning") == expected


def test_a_norm_rescales_what_it_normalises() -> None:
    """w ⊙ (x - mean) / sd + b in the last block, whose norm gives the features that the pooler reads."""
    tunable = attach(Norms())
    torch.manual_seed(0)
    tunable.write({name: torch.rand_like(value) for name, value in tunable.read().items()})
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    path = "bert.encoder.layer.1.output.LayerNorm"
    norm = tunable.base_model.get_submodule(path)
    norm.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    logits(tunable.model, batch(load(*BERT)))
    ((x, y),) = [(x.double().numpy(), y.double().numpy()) for x, y in seen]
    values = tunable.read()
    weight, bias = (
        values[f"base_model.model.{path}.ln_tuning_layers.{part}"].double().numpy() for part in ("weight", "bias")
    )
    expected = weight * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) + bias
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_an_empty_norm_is_left_out() -> None:
    """ModernBERT's first block has none before attention."""
    case: Case = ("modernbert", KINDS["modernbert"].tasks[0])
    backbone = load(*case)
    count = sum(
        len(list(block.module.get_submodule(path).parameters()))
        for block in blocks(backbone.model, backbone.family)
        for path in block.stack.norms
    )
    names = [name for name in attach(Norms(), case).parameters if "ln_tuning" in name]
    assert len(names) == count == 3


@pytest.mark.parametrize(("chosen", "numbers"), [([-1], {1}), ([0], {0}), ([0, 1], {0, 1}), ([-2, 0], {0})], ids=str)
def test_layers_are_trained_in_full(chosen: list[int], numbers: set[int]) -> None:
    tunable = attach(WholeLayers(layers=chosen))
    expected = {
        name
        for name, _ in load(*BERT).model.named_parameters()
        if name.startswith("classifier.") or any(f"encoder.layer.{number}." in name for number in numbers)
    }
    assert tunable.parameters.keys() == expected


def test_layers_within_what_a_proxy_tunes() -> None:
    backbone = load(*BERT)
    paths = [block.path for block in blocks(backbone.model, backbone.family)]
    with pytest.raises(RecipeError, match=r"tune\.layers: none of the blocks may be tuned"):
        WholeLayers(layers=[0]).attach(replace(backbone, tunable_blocks=(paths[1],)), task_type="SEQ_CLS", seed=0)


@pytest.mark.parametrize(
    ("settings", "case", "said"),
    [
        (WholeLayers(layers=[2]), BERT, r"tune\.layers: there is no block 2; builtin:tiny-bert has blocks 0 to 1"),
        (WholeLayers(layers=[0, -3]), BERT, r"tune\.layers: there is no block -3"),
        (WholeLayers(layers=[]), BERT, r"tune\.layers: no block is chosen"),
        (WholeLayers(), ("cohere", "causal"), r"tune\.kind: fedfm has no description of `cohere` models"),
        (Norms(), ("cohere", "causal"), r"tune\.kind: fedfm has no description of `cohere` models"),
        (PTuning(), ("modernbert", "text"), r"tune\.kind: peft would take the network of the prompt for the `head`"),
        (PTuning(), ("tiny-opt", "text"), r"tune\.kind: .*cannot distinguish from padding"),
        (PTuning(head=False), BERT, r"tune\.head: "),
    ],
    ids=lambda value: value.kind if isinstance(value, TuneSettings) else None,
)
def test_what_does_not_fit_is_refused(settings: TuneSettings, case: Case, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        attach(settings, case)


def test_proxies_refuse_what_they_have_in_part() -> None:
    assert PROXIES["fedpft"]().refuses(WholeLayers()) is not None
    assert PROXIES["offsite"]().refuses(WholeLayers()) is not None
    assert PROXIES["fedpft"]().refuses(Norms()) is None


def test_p_tuning_computes_its_prompt() -> None:
    """arXiv:2103.10385: two hidden layers on trained embeddings; numpy in place of torch."""
    tunable = attach(PTuning(num_virtual_tokens=3, encoder_hidden_size=5))
    values = {name.removeprefix("prompt_encoder."): value.numpy() for name, value in tunable.read().items()}
    assert size(tunable, "prompt_encoder") == 3 * 16 + (16 * 5 + 5) + (5 * 5 + 5) + (5 * 16 + 16)
    hidden = values["embedding.weight"]
    for number in (0, 2, 4):
        hidden = hidden @ values[f"mlp_head.{number}.weight"].T + values[f"mlp_head.{number}.bias"]
        hidden = np.maximum(hidden, 0) if number < 4 else hidden
    prompt = tunable.model.get_prompt(batch_size=2).detach().numpy()
    np.testing.assert_allclose(prompt, np.stack([hidden, hidden]), atol=1e-6)


def test_a_saved_prompt_needs_no_network(tmp_path: Path) -> None:
    tunable = attach(PTuning(num_virtual_tokens=3, encoder_hidden_size=5))
    tunable.save(tmp_path, None)
    loaded = PeftModel.from_pretrained(load(*BERT).model, str(tmp_path))
    own = {name for name, _ in loaded.named_parameters() if "prompt_encoder" in name}
    assert own == {"prompt_encoder.default.embedding.weight"}
    assert loaded.get_prompt(batch_size=1).shape == (1, 3, 16)
