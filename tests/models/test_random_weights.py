"""Models from zero: `model.init: random` draws all weights, of any size, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.builtin import write_random_model
from fedfm.models.settings import ModelSettings
from fedfm.recipe import load_recipe
from tests.small import small_recipe


def drawn(path: str, seed: int = 0, **config: Any) -> Backbone:
    settings = ModelSettings(path=path, init="random", config=config)
    return load_backbone(settings, AutoModelForCausalLM, seed=seed)


@pytest.fixture
def without_weights(tmp_path: Path) -> str:
    write_random_model("tiny-llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    return str(tmp_path)


def test_weights_derive_from_the_seed_and_no_file_of_weights_is_needed(without_weights: str) -> None:
    first, again, other = (drawn(without_weights, seed) for seed in (0, 0, 1))
    assert first.identity == again.identity
    assert first.identity.weights != other.identity.weights
    assert (first.drawn, first.loaded, first.new_head) == (True, 0, ())
    assert "not pretrained" in first.warnings[0]
    assert {parameter.dtype for parameter in first.model.parameters()} == {torch.float32}
    with pytest.raises(RecipeError, match="no weights"):
        load_backbone(ModelSettings(path=without_weights), AutoModelForCausalLM, seed=0)


def test_its_size_can_be_set() -> None:
    model = drawn("builtin:tiny-llama", hidden_size=32, num_hidden_layers=3).model
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.head_dim) == (32, 3, 16)
    assert model.get_input_embeddings().weight.shape[1] == 32


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"hidden_sizes": 32}, "did you mean `hidden_size`"),
        ({"model_type": "gpt2"}, "no number or word `model_type`"),
        ({"hidden_size": "wide"}, "cannot have these values"),
        ({"hidden_size": 33}, "cannot have these values"),
    ],
)
def test_a_change_that_does_not_fit_is_refused_with_its_key(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence) as caught:
        drawn("builtin:tiny-llama", **config)
    assert caught.value.problems[0].where == "model.config"


def test_all_of_it_must_be_trained(tmp_path: Path) -> None:
    values = {**small_recipe(tmp_path), "model": {"path": "builtin:tiny-bert", "init": "random"}}
    with pytest.raises(RecipeError, match="must all be trained"):
        load_recipe(values)
    load_recipe({**values, "tune": {"kind": "full"}})
    with pytest.raises(RecipeError, match="set init=random"):
        load_recipe({**values, "model": {"path": "builtin:tiny-bert", "config": {"hidden_size": 8}}})
