"""Prompts and attention on models of images and texts, against the same model on other inputs and by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from fedfm.data.settings import DataSettings
from fedfm.data.sources import read_source
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, leave_room, load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import AttentionAdapter, Prompt, TuneSettings
from fedfm.tasks.image_text import ImageText
from fedfm.tasks.towers import image_embeddings, text_embeddings

TASK = ImageText()
CLIP = {"path": "builtin:tiny-clip"}
PAIR = {"path": "builtin:tiny-vit", "text": "builtin:tiny-bert"}
COUNT = 3
PROMPT, ATTENTION = Prompt(num_virtual_tokens=COUNT), AttentionAdapter()
VECTORS = "text_model.context.vectors"
PROJECTIONS = {"visual_projection.weight", "text_projection.weight"}

models = pytest.mark.parametrize("model", [CLIP, PAIR], ids=["clip", "two models"])
kinds = pytest.mark.parametrize("tune", [PROMPT, ATTENTION], ids=lambda tune: tune.kind)


def backbone(model: dict[str, str]) -> Backbone:
    return load_backbone(ModelSettings(**model), TASK.auto_class, seed=0, modality=TASK.modality)


def attached(tune: TuneSettings, model: dict[str, str], seed: int = 0) -> tuple[Backbone, Tunable]:
    loaded = backbone(model)
    return loaded, tune.attach(loaded, task_type=TASK.peft_type, seed=seed)


def batch_of(loaded: Backbone) -> dict[str, Tensor]:
    texts = dict(loaded.processor.tokenizer(["a text", "another, longer text"], padding=True, return_tensors="pt"))
    return {**texts, "pixel_values": torch.linspace(-1, 1, 2 * 3 * 8 * 8).sin().reshape(2, 3, 8, 8)}


def outputs(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return TASK.outputs(model.eval(), batch)


def step(tunable: Tunable, batch: dict[str, Tensor]) -> None:
    TASK.outputs(tunable.model, batch).square().sum(-1).add(TASK.outputs(tunable.model, batch)[:, 0]).sum().backward()
    with torch.no_grad():
        for parameter in tunable.parameters.values():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad.sign()
            parameter.grad = None


@models
def test_vectors_that_are_embeddings_of_tokens_act_as_these_tokens_after_the_first(model: dict[str, str]) -> None:
    """The oracle is the plain model: positions, padding, masks, and where CLIP pools, are its own."""
    loaded, tunable = attached(PROMPT, model)
    plain, batch = backbone(model).model, batch_of(loaded)
    ids = torch.tensor([7, 40, 9])
    values = tunable.read()
    values[VECTORS] = plain.text_model.get_input_embeddings().weight[ids].detach()
    tunable.write(values)
    longer = {}
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in batch:
            inserted = ids if name == "input_ids" else torch.full_like(ids, int(name == "attention_mask"))
            longer[name] = torch.cat([batch[name][:, :1], inserted.expand(2, -1), batch[name][:, 1:]], 1)
    with torch.no_grad():
        expected, found = text_embeddings(plain, longer), text_embeddings(tunable.model, batch)
        assert torch.equal(found, expected)
        assert not torch.allclose(found, text_embeddings(plain, batch), atol=1e-4)
        pixels = batch["pixel_values"]
        assert torch.equal(image_embeddings(tunable.model, pixels), image_embeddings(plain, pixels))


@models
def test_attention_weighs_the_features_of_an_image(model: dict[str, str]) -> None:
    loaded, tunable = attached(ATTENTION, model)
    plain, batch = backbone(model).model, batch_of(loaded)
    values = {name.removeprefix("visual_projection.attention."): value for name, value in tunable.read().items()}
    with torch.no_grad():
        features = image_embeddings(plain, batch["pixel_values"])
        hidden = torch.tanh(features @ values["hidden.weight"].T + values["hidden.bias"])
        weights = torch.softmax(hidden @ values["output.weight"].T + values["output.bias"], -1)
        torch.testing.assert_close(image_embeddings(tunable.model, batch["pixel_values"]), features * weights)
        assert torch.equal(text_embeddings(tunable.model, batch), text_embeddings(plain, batch))


@kinds
@models
def test_only_it_trains_and_what_the_checkpoint_lacks_of_the_head(tune: TuneSettings, model: dict[str, str]) -> None:
    loaded, tunable = attached(tune, model)
    own = (
        {VECTORS}
        if tune is PROMPT
        else {
            f"visual_projection.attention.{layer}.{kind}"
            for layer in ("hidden", "output")
            for kind in ("weight", "bias")
        }
    )
    assert set(tunable.parameters) == own | (PROJECTIONS if model is PAIR else set())
    mine = {id(parameter) for parameter in tunable.parameters.values()}
    assert {id(each) for each in tunable.model.parameters() if each.requires_grad} == mine
    others = {name: value.detach().clone() for name, value in tunable.model.named_parameters() if id(value) not in mine}
    before, start = tunable.read(), outputs(tunable.model, batch_of(loaded))
    step(tunable, batch_of(loaded))
    after = dict(tunable.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in others.items())
    assert not torch.allclose(outputs(tunable.model, batch_of(loaded)), start, atol=1e-4)
    tunable.write(before)
    assert torch.equal(outputs(tunable.model, batch_of(loaded)), start)


@kinds
def test_the_seed_alone_decides_the_start(tune: TuneSettings) -> None:
    starts = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        starts.append(torch.cat([value.flatten() for value in attached(tune, CLIP, seed)[1].read().values()]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@kinds
def test_what_is_saved_loads_into_another_copy_of_the_base(tune: TuneSettings, tmp_path: Path) -> None:
    loaded, tunable = attached(tune, PAIR)
    batch = batch_of(loaded)
    step(tunable, batch)
    tunable.save(tmp_path, loaded.processor)
    base = load_backbone(ModelSettings(**PAIR), AutoModel, seed=9, modality=TASK.modality).model  # other projections
    assert torch.equal(outputs(tunable.loaded(base, tmp_path), batch), outputs(tunable.model, batch))
    file = tmp_path / "adapter.safetensors"
    save_file({f"{name}.x": value for name, value in load_file(file).items()}, file)
    with pytest.raises(ValueError, match="has other tensors"):
        tunable.loaded(backbone(PAIR).model, tmp_path)


@kinds
def test_a_copy_of_the_model_has_hooks_of_its_own(tune: TuneSettings) -> None:
    loaded, tunable = attached(tune, CLIP)
    batch = batch_of(loaded)
    other = copy.deepcopy(tunable.model)
    start = outputs(tunable.model, batch)
    step(tunable, batch)
    assert torch.equal(outputs(other, batch), start)


@kinds
def test_there_is_nothing_to_merge(tune: TuneSettings) -> None:
    with pytest.raises(RecipeError, match=r"tune\.kind: .*nothing to merge"):
        attached(tune, CLIP)[1].merged()


@pytest.mark.parametrize("kind", [Prompt, AttentionAdapter])
def test_new_projections_are_not_left_as_they_were_drawn(kind: type[Prompt | AttentionAdapter]) -> None:
    attached(kind(head=False), CLIP)
    with pytest.raises(RecipeError, match=r"tune\.head: .*would stay random"):
        attached(kind(head=False), PAIR)


def test_a_prompt_needs_a_text_tower_with_embeddings() -> None:
    loaded = backbone(CLIP)
    del loaded.model.text_model
    with pytest.raises(RecipeError, match=r"tune\.kind: .*no text tower whose tokens have embeddings"):
        PROMPT.attach(loaded, task_type=None, seed=0)


def test_a_text_must_fit_with_the_prompt() -> None:
    loaded = backbone(CLIP)
    limit = loaded.processor.tokenizer.model_max_length
    leave_room(loaded.processor, COUNT)
    source = read_source("builtin:digits-captions", "test", where="data.test").select([0])
    data = DataSettings(train="x", text="captions", max_length=limit)
    with pytest.raises(RecipeError, match=rf"data\.max_length: {limit} is more than the {limit - COUNT} tokens"):
        TASK.encode(TASK.prepare(source, data), data, loaded.processor, None)
    tunable = PROMPT.attach(loaded, task_type=None, seed=0)
    text = loaded.processor.tokenizer("x" * 2 * limit, truncation=True, return_tensors="pt")
    with torch.no_grad():
        assert text_embeddings(tunable.model, dict(text)).isfinite().all()
