"""Every model can be inspected; what cannot be inspected is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification, DeiTConfig, ViTConfig

from fedfm.errors import RecipeError
from fedfm.models.backbones import load_backbone
from fedfm.models.builtin import RANDOM_MODELS, write_random_model
from fedfm.models.settings import ModelSettings
from fedfm.proxies import inspection
from fedfm.proxies.inspection import inspect_proxy
from fedfm.proxies.settings import Bits
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import build_experiment
from tests.small import small_recipe, write_rows

TINY = [name for name in RANDOM_MODELS if name.startswith("tiny-")]
SEEING = ("tiny-vit", "tiny-clip")


def inspect(model: str, **changes: Any) -> dict[str, Any]:
    asked = {"ffn_keep": 0.5, "keep_layers": [0], "score": "concat-l2", "adapters": 1, "tokens": 8, "batch_size": 2}
    return inspect_proxy(model, **{**asked, "public": None, **changes})


@pytest.mark.parametrize("name", TINY)
def test_every_family_can_be_inspected(name: str) -> None:
    found = inspect(f"builtin:{name}")
    auto_class = AutoModelForImageClassification if name == "tiny-clip" else AutoModel
    model = load_backbone(ModelSettings(path=f"builtin:{name}"), auto_class, seed=0).model
    assert found["backbone"]["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["backbone"]["first_download"] > 4 * found["backbone"]["total"]  # and a header
    assert found["tokens"] == (5 if name in SEEING else 8)  # 2 x 2 patches and the class token
    for figure in ("blocks", "total", "flops", "training_memory", "first_download"):
        assert 0 < found["proxy"][figure] < found["backbone"][figure], figure
    assert found["proxy"]["probe"] is None


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-t5", "tiny-clip"])
def test_every_kind_of_input_can_be_probed(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "public.jsonl", 12)
    public = "builtin:digits" if name in SEEING else str(tmp_path / "public.jsonl")
    found = inspect(f"builtin:{name}", public=public, score="gradient")
    assert 0.5 < found["proxy"]["probe"]["gradient_cosine"] < 1
    assert found["proxy"]["probe"]["hidden_error"] > 0


def test_a_download_in_bits_is_that_of_a_run(tmp_path: Path) -> None:
    bits, whole = Bits(attention=4, ffn=8, embeddings=8), inspect("builtin:tiny-bert")["proxy"]
    found = inspect("builtin:tiny-bert", bits=bits)["proxy"]
    assert found["first_download"] < 0.5 * whole["first_download"]
    cut = {"kind": "fedpft", "ffn_keep": 0.5, "keep_layers": [0], "interval": None}
    proxy = {**cut, "closed_form": False, "distill": None, "probe": 0, "bits": bits.model_dump()}
    experiment = build_experiment(load_recipe(small_recipe(tmp_path, proxy=proxy)))
    # a run's model has a head as well
    assert found["first_download"] == pytest.approx(experiment.client_model.download_bytes, rel=0.05)


@pytest.mark.parametrize(("config", "positions"), [(DeiTConfig, 8), (ViTConfig, 7)])
def test_images_need_not_be_square_nor_have_one_special_token(config: Any, positions: int, tmp_path: Path) -> None:
    write_random_model("tiny-vit", tmp_path)  # for its image processor
    sizes = {"hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    AutoModel.from_config(config(**sizes, image_size=(8, 12), patch_size=4)).save_pretrained(tmp_path)
    found = inspect(str(tmp_path))
    assert found["tokens"] == positions  # 2 x 3 patches, the class token, and DeiT's distillation token
    assert found["proxy"]["cut"] == 4


def test_more_tokens_than_the_model_takes_are_refused() -> None:
    assert inspect("builtin:tiny-roberta", tokens=256)["tokens"] == 256
    with pytest.raises(RecipeError, match="tokens: builtin:tiny-roberta takes 256 tokens at most, not 257"):
        inspect("builtin:tiny-roberta", tokens=257)
    assert inspect("builtin:tiny-t5", tokens=257)["tokens"] == 257  # has no limit


def test_scores_on_public_data_need_some() -> None:
    with pytest.raises(RecipeError, match="public: score activation is computed on public data"):
        inspect("builtin:tiny-bert", score="activation")


@pytest.mark.parametrize("allowed", [False, True])
def test_the_network_is_used_only_when_allowed(allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    write_random_model("tiny-bert", tmp_path / "model")
    write_rows(tmp_path / "public.jsonl", 12)

    def snapshot(name: str, revision: str | None, *, allow_network: bool) -> Path:
        asked.append(allow_network)
        return tmp_path / "model"

    def read_public(*arguments: Any, allow_network: bool, **named: Any) -> Any:
        asked.append(allow_network)
        return read(*arguments, **named)

    read = inspection.read_public
    monkeypatch.setattr("fedfm.models.checkpoints.snapshot", snapshot)
    monkeypatch.setattr(inspection, "read_public", read_public)
    inspect("owner/name", public=str(tmp_path / "public.jsonl"), allow_network=allowed)
    assert len(asked) >= 2
    assert set(asked) == {allowed}
