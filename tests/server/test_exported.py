"""An exported model gives the measured figures, by the code on its card and without fedfm."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from fedfm import load_recipe
from fedfm.clients import Evaluator
from fedfm.data.batches import evaluation_batches
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.sources import read_source
from fedfm.models.backbones import Backbone, leave_room, load_backbone
from fedfm.models.quiet import quiet
from fedfm.proxies.base import ModelVersion
from fedfm.proxies.whole_model import WholeModel
from fedfm.randomness import derive_seed
from fedfm.recipe import Recipe
from fedfm.records.folder import RunFolder
from fedfm.server.runs.artifacts import Tuned, write_outcome
from fedfm.server.runs.reload import reload
from tests.card import by_the_card
from tests.models.cases import ALIKE, GRID, LABELS, SMALL, Case, first_case, load

KINDS = {"text": "text-classification", "image": "image-classification", "causal": "causal-lm", "masked": "masked-lm"}
WORDS = ("sun", "a river </s> [SEP] <pad>", "stones and trees", "x", "quite another, longer text than these others are")
MATRIX = [
    *[(*case, kind) for kind, case in GRID if kind in ("lora", "full") or case == first_case(kind)],
    *[(*case, "lora") for case in ALIKE],
]
"""Each model and task with LoRA and in full, each tunable once: the card's code depends on the task and what is saved.

`tests/models/tunables/test_behaviour.py` loads what every tunable saves of every model, without fedfm.
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    rows = [{"text": f"{WORDS[i % 5]} {i}", "label": LABELS[i % 3]} for i in range(12)]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for index in range(9):
        place = folder / "image" / LABELS[index % 3] / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (9 + index, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place)
    return folder


def recipe_of(data: Path, name: str, task: str, kind: str) -> Recipe:
    source = data / ("image" if task == "image" else "text.jsonl")
    return load_recipe(
        {
            "name": "exported",
            "output": str(data),
            "model": {"path": f"builtin:{name}"},
            "task": {"kind": KINDS[task]},
            "data": {"train": str(source), "test": str(source), "max_length": 24},
            "federation": {"clients": 2, "rounds": 1},
            "tune": {"kind": kind, **SMALL.get(kind, {})},
        }
    )


def own(backbone: Backbone) -> Backbone:
    """A backbone whose processor no other test shares."""
    return replace(backbone, processor=copy.deepcopy(backbone.processor))


class Measured:
    """A tuned model, whose parameters are noise, and what it scores."""

    def __init__(self, recipe: Recipe, name: str, task: str) -> None:
        self.recipe, self.task = recipe, recipe.task
        self.backbone = own(load(name, task))
        leave_room(self.backbone.processor, recipe.tune.virtual_tokens)
        self.tunable = recipe.tune.attach(self.backbone, task_type=self.task.peft_type, seed=0)
        noise = torch.Generator().manual_seed(0)
        self.tunable.write(
            {key: value + 0.3 * torch.randn(value.shape, generator=noise) for key, value in self.tunable.read().items()}
        )
        self.labels = LabelMap(LABELS) if self.task.labelled else None
        source = read_source(str(recipe.data.test), "test", where="data.test")
        self.examples = self.task.encode(source, recipe.data, self.backbone.processor, self.labels)
        self.source = source
        self.evaluator = Evaluator(
            tunable=self.tunable,
            family=self.backbone.family,
            task=self.task,
            processor=self.backbone.processor,
            metrics=tuple(self.task.metrics),
            batch_size=4,
            seed=0,
            device=torch.device("cpu"),
        )
        self.final = self.evaluator(self.examples)

    def write(self, folder: Path, *, merge: bool = False) -> Path:
        summary = {
            "name": "exported",
            "rounds": 1,
            "labels": None if self.labels is None else list(LABELS),
            "final": self.final,
            "initial": {},
            "privacy": None,
        }
        run = RunFolder.create(folder)
        model = WholeModel(self.backbone, lambda _: self.tunable)
        return write_outcome(run, Tuned(model, self.backbone, ModelVersion()), self.recipe, summary, merge=merge)


def classifies_alike(measured: Measured, answers: list[tuple[str, float]]) -> None:
    """The card's `predict` gives the accuracy that was measured, and the probabilities of its classes."""
    assert measured.examples.labels is not None
    truth = [LABELS[label] for label in measured.examples.labels.tolist()]
    right = sum(label == true for (label, _), true in zip(answers, truth, strict=True))
    assert right / len(truth) == measured.final["accuracy"]
    probabilities = torch.from_numpy(measured.evaluator.logits(measured.examples)).softmax(-1).amax(-1)
    assert [probability for _, probability in answers] == pytest.approx(probabilities.tolist(), rel=1e-4)


def masked_loss(model: torch.nn.Module, measured: Measured, examples: Examples) -> float:
    collate = measured.task.collate(measured.backbone.processor, derive_seed(0, "evaluation masks"))
    loss, count = 0.0, 0.0
    for positions in evaluation_batches(examples.lengths, 4):
        batch = collate(examples.take(positions))
        with torch.no_grad():
            logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        losses, counts = measured.task.losses(logits, batch)
        loss, count = loss + losses.sum().item(), count + counts.sum().item()
    return loss / count


def holds(measured: Measured, target: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, final, texts = by_the_card(target, monkeypatch), measured.final, measured.source.table
    match measured.recipe.task.kind:
        case "text-classification":
            classifies_alike(measured, names["predict"](texts["text"][:]))
        case "image-classification":
            classifies_alike(measured, names["predict"](sorted((data / "image").rglob("*.png"))))
        case "causal-lm":
            assert names["perplexity"](texts["text"][:]) == pytest.approx(final["perplexity"], rel=1e-4)
        case "masked-lm":
            assert masked_loss(names["model"], measured, measured.examples) == pytest.approx(final["loss"], rel=1e-5)
            mask = names["tokenizer"].mask_token
            assert len(names["fill"](f"one {mask} and {mask}")) == 2
    with quiet():
        again = reload(target, measured.tunable, measured.backbone, measured.recipe)
    assert again.agrees, again


@pytest.mark.parametrize(("name", "task", "kind"), MATRIX)
def test_the_code_on_the_card_gives_the_measured_figures(
    name: str, task: str, kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Measured(recipe_of(data, name, task, kind), name, task)
    holds(measured, measured.write(tmp_path / "run"), data, monkeypatch)


@pytest.mark.parametrize("case", [("tiny-bert", "text"), ("tiny-vit", "image"), ("tiny-llama", "causal")])
def test_a_merged_model_gives_the_measured_figures(
    case: Case, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Measured(recipe_of(data, *case, "lora"), *case)
    target = measured.write(tmp_path / "run", merge=True)
    assert target.name == "model"
    holds(measured, target, data, monkeypatch)


@pytest.mark.parametrize("kind", ["lora", "prompt", "full"])
def test_marks_of_an_older_head_do_not_reach_the_user(
    kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base has a trained head for two labels at once, and its tokenizer pads on the left."""
    older = own(load("tiny-bert", "text"))
    older.model.config.update({"id2label": {0: "x", 1: "y"}, "label2id": {"x": 0, "y": 1}})
    older.model.config.problem_type = "multi_label_classification"
    older.model.classifier = torch.nn.Linear(16, 2)
    older.processor.padding_side = "left"
    with quiet():
        older.model.save_pretrained(tmp_path / "older")
        older.processor.save_pretrained(tmp_path / "older")
    recipe = load_recipe(recipe_of(data, "tiny-bert", "text", kind).model_dump(), [f"model.path={tmp_path / 'older'}"])
    with monkeypatch.context() as patched:
        patched.setattr("tests.server.test_exported.load", lambda *_: from_folder(recipe))
        measured = Measured(recipe, "older", "text")
    target = measured.write(tmp_path / "run")
    holds(measured, target, data, monkeypatch)
    names = by_the_card(target, monkeypatch)
    classifier = pipeline("text-classification", model=names["model"], tokenizer=names["tokenizer"], top_k=None)
    (scores,) = classifier(["sun"])
    assert {score["label"] for score in scores} == set(LABELS)
    assert sum(score["score"] for score in scores) == pytest.approx(1)


def from_folder(recipe: Recipe) -> Backbone:
    return load_backbone(recipe.model, recipe.task.auto_class, seed=0, labels=LABELS)


def test_a_model_that_is_not_the_measured_one_is_noticed(data: Path, tmp_path: Path) -> None:
    measured = Measured(recipe_of(data, "tiny-bert", "text", "lora"), "tiny-bert", "text")
    target = measured.write(tmp_path / "run")
    some = next(iter(measured.tunable.read()))
    measured.tunable.write({name: value + (name == some) for name, value in measured.tunable.read().items()})
    again = reload(target, measured.tunable, measured.backbone, measured.recipe)
    assert again.agrees is False
    assert again.difference is not None
    assert again.difference > 1e-3


def test_what_does_not_load_is_said_and_loses_nothing(data: Path, tmp_path: Path) -> None:
    measured = Measured(recipe_of(data, "tiny-bert", "text", "lora"), "tiny-bert", "text")
    target = measured.write(tmp_path / "run")
    (target / "adapter_model.safetensors").write_bytes(b"damaged")
    again = reload(target, measured.tunable, measured.backbone, measured.recipe)
    assert (again.agrees, again.difference) == (False, None)
    assert str(again.reason).startswith("it does not load: ")


def test_a_model_too_large_to_be_held_twice_is_not_loaded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Measured(recipe_of(data, "tiny-bert", "text", "lora"), "tiny-bert", "text")
    target = measured.write(tmp_path / "run")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 100}))
    again = reload(target, measured.tunable, measured.backbone, measured.recipe)
    assert (again.agrees, again.difference) == (None, None)
    assert "does not fit into memory" in str(again.reason)
    assert math.isfinite(measured.final["loss"])
