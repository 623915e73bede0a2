"""Whole runs with an offsite proxy; its recipe, its folder, and `fedfm proxy inspect`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fedfm import export, run
from fedfm.errors import RecipeError
from fedfm.models.tunables import IA3, BitFit, Dora, Full, Head, Lora, Prefix, Prompt, TuneSettings
from fedfm.params import digest
from fedfm.params import load as load_params
from fedfm.proxies.folder import load_proxy, save_proxy
from fedfm.proxies.inspection import inspect_proxy
from fedfm.proxies.offsite.layers import choose_layers, make_offsite
from fedfm.proxies.offsite.settings import Offsite
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import build_experiment
from fedfm.server.runs.proxy_tools import build_proxy
from tests.models.cases import TASKS, batch, load, logits
from tests.small import small_recipe
from tests.system.test_outcome import plain_accuracy
from tests.system.test_proxies import FEDPFT, STAGE, deep_model, recipe_of

OFFSITE: dict[str, Any] = {"kind": "offsite", "layers": 3, "adapters": 1, "distill": {**STAGE}, "probe": 4}
BERT = ("tiny-bert", "text")


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"proxy": {"kind": "offsite"}}, "public", r"proxy\.distill=null"),
        ({"proxy": {**OFFSITE, "distill": None}}, "proxy.layers", "has only 2 layers"),
        ({"proxy": {"kind": "offsite", "path": "p"}, "tune": {"kind": "prefix"}}, "tune.kind", "only some"),
        ({"proxy": {"kind": "offsite", "path": "nowhere"}}, "proxy.path", "not a proxy's folder"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_change(
    tmp_path: Path, changes: dict[str, Any], where: str, said: str
) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        build_experiment(load_recipe(small_recipe(tmp_path, **changes)))
    assert [problem.where for problem in caught.value.problems] == [where]


ACCEPTED: list[TuneSettings] = [
    Lora(target_modules="all"),
    Dora(target_modules="ffn"),
    *(Full(), IA3(), BitFit(), Head(), Prompt()),
]


@pytest.mark.parametrize("tune", ACCEPTED, ids=lambda value: value.kind)
def test_the_recipe_alone_refuses_only_what_is_in_every_layer(tune: TuneSettings) -> None:
    assert Offsite().refuses(tune) is None  # type: ignore[arg-type]
    assert "use lora" in (Offsite().refuses(Prefix()) or "")


def test_it_is_inspected_beside_the_proxy_of_its_size(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"ffn_keep": 0.5, "keep_layers": [0], "score": "concat-l2", "adapters": 1, "public": None}
    small = inspect_proxy("builtin:tiny-bert", **asked, tokens=8, batch_size=2)
    assert small["offsite"] is None  # two layers leave no emulator between two adapters
    assert small["holders"] == ["backbone", "proxy", "offsite"]
    found = inspect_proxy(deep_model(tmp_path, "tiny-bert", 5), **asked, tokens=8, batch_size=2)
    assert found["offsite"]["layers"] < 5
    assert (found["offsite"]["title"], found["offsite"]["cut"]) == ("offsite tuning", 0)


def test_it_comes_back_from_its_folder_with_the_blocks_that_may_be_tuned(tmp_path: Path) -> None:
    bert = load(*BERT)
    config = transformers.BertConfig.from_dict({**bert.model.config.to_dict(), "num_hidden_layers": 6})
    backbone = replace(bert, model=transformers.BertForSequenceClassification(config).eval().requires_grad_(False))
    settings = Offsite(layers=4, adapters=1)
    proxy = make_offsite(backbone, choose_layers(backbone, settings))
    save_proxy(tmp_path, proxy, {}, settings)
    found, manifest = load_proxy(tmp_path, TASKS["text"].auto_class)
    assert manifest.settings == settings
    assert found.tunable_blocks == ("encoder.layer.0", "encoder.layer.3")
    inputs = batch(backbone)
    assert torch.equal(logits(found.model, inputs), logits(proxy.model, inputs))


@pytest.mark.slow
def test_the_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    build_proxy(recipe_of(tmp_path, "builder", proxy={**FEDPFT, "distill": None}), tmp_path / "built")
    with pytest.raises(RecipeError, match="a proxy of kind fedpft, not offsite"):
        run(recipe_of(tmp_path, "wrong", proxy={**OFFSITE, "path": str(tmp_path / "built")}))


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["lora", "full"])
def test_an_offsite_proxy_built_ahead_stays_what_it_is(tmp_path: Path, tune: str) -> None:
    base = {"path": deep_model(tmp_path / "deep", "tiny-bert", 7)}
    made = {**OFFSITE, "layers": 5}
    changes: dict[str, Any] = {"model": base, "tune": {"kind": tune}}
    build_proxy(recipe_of(tmp_path, "builder", proxy=made, **changes), tmp_path / "built")
    finished = run(
        recipe_of(tmp_path, proxy={"kind": "offsite", "path": str(tmp_path / "built"), "probe": 0}, **changes)
    )
    said = json.loads((finished.folder.proxy / "proxy.json").read_text())["settings"]
    assert (said["layers"], said["adapters"], said["path"]) == (5, 1, None)
    first = digest(load_params(tmp_path / "built" / "model.safetensors"))
    assert digest(load_params(finished.folder.proxy / "model.safetensors")) == first
    outcome_folder = finished.folder.adapter if tune == "lora" else finished.folder.model
    before = {path.name: path.read_bytes() for path in outcome_folder.glob("*.safetensors")}
    export(finished.path)
    assert {path.name: path.read_bytes() for path in outcome_folder.glob("*.safetensors")} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-bert", "tiny-llama"])
def test_offsite_tuning_moves_only_the_adapters_of_the_real_backbone(tmp_path: Path, name: str) -> None:
    base = deep_model(tmp_path / "deep", name, 5)
    finished = run(recipe_of(tmp_path, model={"path": base}, proxy=OFFSITE))
    adapter = load_params(finished.folder.adapter / "adapter_model.safetensors")
    layers = {part for key in adapter for part in key.split(".") if part.isdigit()}
    assert layers == {"0", "4"}
    test = tmp_path / "test.jsonl"
    if name == "tiny-bert":
        assert plain_accuracy(finished.folder.adapter, test, base) == finished.summary["final"]["accuracy"]
