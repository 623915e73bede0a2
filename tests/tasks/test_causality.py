"""Causal language modelling is refused for every model that reads the tokens that it must predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from fedfm.errors import RecipeError
from fedfm.models.backbones import load_backbone
from fedfm.models.builtin import write_random_model
from fedfm.models.byte_tokenizer import VOCABULARY_SIZE, byte_tokenizer
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import Full, Lora, Prefix, Prompt, TuneSettings
from fedfm.randomness import torch_seed
from fedfm.recipe import load_recipe
from fedfm.server import plan
from fedfm.tasks.causality import refuse_look_ahead
from fedfm.tasks.language_modeling import CausalLM
from tests.models.cases import ALIKE, CASES, load
from tests.small import small_recipe

DECODERS = [name for name, task in (*CASES, *ALIKE) if task == "causal"]
TUNABLES = [Lora(), Prompt(num_virtual_tokens=3), Prefix(num_virtual_tokens=3), Full()]


def probe(backbone: Any, tune: TuneSettings | None = None) -> None:
    tunable = (tune or Lora()).attach(backbone, task_type="CAUSAL_LM", seed=0)
    refuse_look_ahead(CausalLM(), tunable, backbone.processor, backbone.name)


def changed_model(folder: Path, builtin: str, **config: Any) -> str:
    """A builtin's files with another config."""
    write_random_model(builtin, folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return str(folder)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_pass(name: str) -> None:
    probe(load(name, "causal"))


@pytest.mark.parametrize("tune", TUNABLES, ids=lambda tune: tune.kind)
def test_decoders_pass_with_every_kind_of_tunable(tune: TuneSettings) -> None:
    probe(load("tiny-llama", "causal"), tune)


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-roberta"])
def test_encoders_with_a_causal_head_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"task\.kind: builtin:tiny-\w+ reads the tokens that it must predict"):
        probe(load(name, "causal"))


def test_an_encoder_that_is_configured_as_a_decoder_passes(tmp_path: Path) -> None:
    path = changed_model(tmp_path, "tiny-bert", is_decoder=True)
    probe(load_backbone(ModelSettings(path=path), AutoModelForCausalLM, seed=0))


def test_a_prefix_that_is_read_in_both_directions_is_refused() -> None:
    """A change of the last token alone would not show it."""
    backbone = load("tiny-gpt2", "causal")

    def share_prefix(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = args[0].clone()
        hidden[:, :3] += hidden[:, :3].mean(1, keepdim=True)
        return (hidden, *args[1:])

    backbone.model.transformer.h[0].register_forward_pre_hook(share_prefix)
    with pytest.raises(RecipeError, match="reads the tokens that it must predict"):
        probe(backbone)


def test_padding_that_leads_into_the_future_is_refused() -> None:
    """A model may look ahead only where a batch has padding, since attention then goes another way."""
    backbone = load("tiny-gpt2", "causal")

    def look_ahead(_: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs.get("attention_mask")
        return args, kwargs if mask is None else kwargs | {"attention_mask": torch.ones_like(mask)}

    for block in backbone.model.transformer.h:
        block.attn.register_forward_pre_hook(look_ahead, with_kwargs=True)
    with pytest.raises(RecipeError, match="reads the tokens that it must predict"):
        probe(backbone)


def causal_recipe(folder: Path, model: str) -> dict[str, Any]:
    recipe = small_recipe(folder, model={"path": model}, task={"kind": "causal-lm"})
    recipe["federation"]["partition"] = {"kind": "iid"}
    return recipe


def test_a_recipe_with_an_encoder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    model = Path(changed_model(tmp_path / "model", "tiny-bert"))
    (model / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(RecipeError, match=r"task\.kind: .*\(bert\) reads all tokens of a text at once") as refused:
        plan(load_recipe(causal_recipe(tmp_path, str(model))))
    assert refused.value.exit_code == 2


def test_a_recipe_with_a_decoder_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    """EmbeddingGemma is one: its type is a decoder's, and it attends in both directions."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"head_dim": 8, "num_key_value_heads": 1, "vocab_size": VOCABULARY_SIZE}
    config = Gemma3TextConfig(**sizes, use_bidirectional_attention=True)
    with torch_seed(0, "gemma3"):
        Gemma3ForCausalLM(config).save_pretrained(tmp_path / "model")
    byte_tokenizer("start-only", 64).save_pretrained(tmp_path / "model")
    path = str(tmp_path / "model")
    with pytest.raises(RecipeError, match=r"task\.kind: .* reads the tokens that it must predict"):
        plan(load_recipe(causal_recipe(tmp_path, path)))
