"""Loss, recall and zero-shot logits against transformers and numbers worked out apart; what cannot be trained so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, VisionTextDualEncoderModel

from fedfm.data.image_text import CAPTIONS, captions_of
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source, read_source
from fedfm.errors import DataError, RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.builtin import write_random_model
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables.lora import Lora
from fedfm.tasks.image_text import MODALITY, SIDES, ImageText, best_ranks, crops
from fedfm.tasks.towers import TEMPLATE, class_embeddings, zero_shot_logits

TASK = ImageText()
DATA = DataSettings(train="x", text="captions", max_length=64)
TEXTS = ["a dog runs", "two cats on a red sofa", "the sea"]
PAIR = {"path": "builtin:tiny-vit", "text": "builtin:tiny-bert"}


def backbone(**model: str) -> Backbone:
    settings = ModelSettings(**(model or {"path": "builtin:tiny-clip"}))
    return load_backbone(settings, TASK.auto_class, seed=0, modality=TASK.modality)


def pictures(count: int = 3) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (12, 20, 3), dtype=np.uint8)) for _ in range(count)]


def written(folder: Path, captions: list[Any]) -> Source:
    """A file of rows with an image and a caption or captions each."""
    rows = []
    for number, (picture, caption) in enumerate(zip(pictures(len(captions)), captions, strict=True)):
        picture.save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "captions": caption})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_source(str(folder / "rows.jsonl"), "train", where="data.train", columns=TASK.columns(DATA))


def batch_of(folder: Path, loaded: Backbone, modality: int = 0) -> dict[str, Any]:
    examples = TASK.encode(TASK.prepare(written(folder, list(TEXTS)), DATA), DATA, loaded.processor, None)
    rows = [row | {MODALITY: modality} for row in examples.take(np.arange(3))]
    return TASK.collate(loaded.processor, 0)(rows)


@pytest.mark.parametrize("model", [{"path": "builtin:tiny-clip"}, PAIR], ids=["clip", "two models"])
def test_loss_and_similarities_are_those_of_transformers(model: dict[str, str], tmp_path: Path) -> None:
    loaded = backbone(**model)
    batch = batch_of(tmp_path, loaded)
    inputs = {name: tensor for name, tensor in batch.items() if name not in SIDES}
    with torch.no_grad():
        outputs = TASK.outputs(loaded.model, batch)
        images, texts = outputs.chunk(2)
        theirs = loaded.model(**inputs, return_loss=True)
        totals, counts = TASK.losses(outputs, batch)
    torch.testing.assert_close(images @ texts.T, theirs.logits_per_image)
    torch.testing.assert_close(totals.sum() / counts.sum(), theirs.loss)


def test_pixels_and_tokens_are_those_of_the_processors(tmp_path: Path) -> None:
    loaded = backbone()
    batch, processor = batch_of(tmp_path, loaded), loaded.processor
    pixels = processor.image_processor(images=pictures(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], pixels)
    plain = processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], plain["input_ids"])
    assert torch.equal(batch["attention_mask"], plain["attention_mask"])


def test_one_kind_alone_is_two_views_through_its_own_tower(tmp_path: Path) -> None:
    """What a client without the other kind trains: its own tower gets a gradient, the other one none."""
    for modality, own, other in ((1, "vision_model", "text_model"), (2, "text_model", "vision_model")):
        loaded = backbone()
        batch = batch_of(tmp_path, loaded, modality)
        assert ("pixel_values" in batch) == (modality == 1)
        assert ("input_ids" in batch) == (modality == 2)
        loaded.model.requires_grad_()
        outputs = TASK.outputs(loaded.model, batch)
        assert outputs.shape[0] == 6
        totals, counts = TASK.losses(outputs, batch)
        totals.sum().backward()
        assert counts.tolist() == [2, 2, 2]
        moved = {name for name, parameter in loaded.model.named_parameters() if parameter.grad is not None}
        assert any(name.startswith(own) for name in moved)
        assert not any(name.startswith(other) for name in moved)


def test_views_of_an_image_are_keyed_crops() -> None:
    pixels = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    draw = [crops(pixels, np.random.default_rng(seed), 0.25) for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    whole = crops(pixels, np.random.default_rng(0), 1.0)
    for image, view in zip(pixels, whole, strict=True):
        assert torch.equal(view, image) or torch.equal(view, image.flip(-1))


def test_recall_counts_any_right_answer_and_ties_count_against() -> None:
    """Two captions of image 0, one of image 1, by hand."""
    measured = {
        "image": np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        "text": np.array([[0.0, 1.0], [0.9, 0.1], [0.8, 0.2]]),
        "image_number": np.array([5, 5, 7]),
        "text_number": np.array([1, 2, 3]),
    }
    found = TASK.score(measured, 0.0)
    assert found["text_recall_at_1"] == 0.5  # image 0 finds its second caption; image 1 finds the first caption first
    assert found["image_recall_at_1"] == pytest.approx(1 / 3)  # the second caption alone finds its image
    assert found["image_recall_at_5"] == found["text_recall_at_5"] == found["recall_at_10"] == 1.0
    alike = np.ones((4, 2))
    assert best_ranks(alike, alike, np.stack([np.arange(4)] * 2, 1)).tolist() == [4, 4, 4, 4]


def test_a_pair_with_the_same_image_or_caption_is_no_negative() -> None:
    outputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    numbers = {SIDES[0]: torch.tensor([1, 2, 1]), SIDES[1]: torch.tensor([4, 5, 6])}
    totals, _ = TASK.losses(outputs, numbers)
    without, _ = TASK.losses(outputs[[0, 1, 3, 4]], {side: values[:2] for side, values in numbers.items()})
    torch.testing.assert_close(totals[0], without[0])


def test_zero_shot_logits_are_those_of_any_clip_folder(tmp_path: Path) -> None:
    write_random_model("tiny-clip", tmp_path / "clip")
    loaded = backbone(path=str(tmp_path / "clip"))
    plain = CLIPModel.from_pretrained(tmp_path / "clip")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "clip")
    side = AutoImageProcessor.from_pretrained(tmp_path / "clip", backend="pil")
    pixels = side(images=pictures(), return_tensors="pt")
    names, other = ["dog", "tabby cat"], "{}, drawn"
    with torch.no_grad():
        prompts = tokenizer([TEMPLATE.replace("{}", name) for name in names], padding=True, return_tensors="pt")
        theirs = plain(**pixels, **prompts).logits_per_image
        classes = class_embeddings(loaded.model, loaded.processor.tokenizer, names, [TEMPLATE])
        torch.testing.assert_close(zero_shot_logits(loaded.model, pixels["pixel_values"], classes), theirs)
        both = class_embeddings(loaded.model, loaded.processor.tokenizer, names, [TEMPLATE, other])
        second = class_embeddings(loaded.model, loaded.processor.tokenizer, names, [other])
    torch.testing.assert_close(both, torch.nn.functional.normalize(classes + second, dim=-1))
    with pytest.raises(RecipeError, match=r"must have one \{\}"):
        class_embeddings(loaded.model, loaded.processor.tokenizer, names, ["a photo"])


def test_captions_are_a_text_or_a_list(tmp_path: Path) -> None:
    source = written(tmp_path, ["[one]", ["two", "three"], "[1, 2]"])
    assert captions_of(source, "captions") == [["[one]"], ["two", "three"], ["[1, 2]"]]
    loaded = backbone()
    examples = TASK.encode(TASK.prepare(source, DATA), DATA, loaded.processor, None)
    rows = examples.take([1])
    assert [len(ids) for ids in rows[0][CAPTIONS]] == [5, 7]
    drawn = {tuple(TASK.collate(loaded.processor, seed)(rows)["input_ids"][0].tolist()) for seed in range(8)}
    assert len(drawn) == 2, "each caption is drawn at times"


@pytest.mark.parametrize("captions", [["one", []], [["one"], ["two", " "]]])
def test_a_row_without_a_caption_is_refused(captions: list[Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.text: .*caption in row 2"):
        captions_of(written(tmp_path, captions), "captions")


def test_a_column_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"image": "a dog", "captions": "a dog"}\n')
    columns = TASK.columns(DATA)
    source = read_source(str(tmp_path / "rows.jsonl"), "train", where="data.train", columns=columns)
    with pytest.raises(DataError, match="a dog"):
        TASK.prepare(source, DATA)


def test_towers_are_joined_as_transformers_joins_them(tmp_path: Path) -> None:
    """The towers of two checkpoints compute what they did; the projections are new, and all else is frozen by LoRA."""
    loaded = backbone(**PAIR)
    for name, folder in (("tiny-vit", "image"), ("tiny-bert", "text")):
        write_random_model(name, tmp_path / folder)
    theirs = VisionTextDualEncoderModel.from_vision_text_pretrained(str(tmp_path / "image"), str(tmp_path / "text"))
    ours, plain = loaded.model.state_dict(), theirs.state_dict()
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in plain if name.split(".")[0].endswith("_model"))
    assert set(loaded.new_head) == {"visual_projection.weight", "text_projection.weight"}
    again = backbone(**PAIR)
    assert again.identity == loaded.identity
    assert torch.equal(again.model.visual_projection.weight, loaded.model.visual_projection.weight)
    tunable = Lora(r=2, target_modules="attention").attach(loaded, task_type=TASK.peft_type, seed=0)
    names = {name.removeprefix("base_model.model.").split(".")[0] for name in tunable.parameters}
    assert names == {"vision_model", "text_model", "visual_projection", "text_projection"}
    TASK.check_model(tunable, loaded.processor, loaded.name, DATA)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"path": "builtin:tiny-bert"}, "model.path: .*does not read both images and texts"),
        ({"path": "builtin:tiny-bert", "text": "builtin:tiny-vit"}, "model.path: .*no model of images alone"),
        ({"path": "builtin:tiny-vit", "text": "builtin:tiny-clip"}, "model.text: .*no model of texts alone"),
        ({"path": "builtin:tiny-vit", "text": "builtin:nothing"}, "model.text: no builtin model"),
    ],
)
def test_models_that_do_not_read_both_are_refused(model: dict[str, str], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        backbone(**model)


def test_a_tower_without_a_pooler_is_refused() -> None:
    loaded = backbone(path="builtin:tiny-vit", text="builtin:tiny-distilbert")
    tunable = Lora(r=2).attach(loaded, task_type=TASK.peft_type, seed=0)
    with pytest.raises(RecipeError, match=r"model.path: .*give no embedding"):
        TASK.check_model(tunable, loaded.processor, loaded.name, DATA)
