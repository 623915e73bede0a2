"""Whole runs whose clients hold a proxy: their results, resume, and loading by other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from fedfm import export, load_recipe, resume, run
from fedfm.models.builtin import write_random_model
from fedfm.params import digest, load
from fedfm.proxies.folder import load_proxy
from fedfm.proxies.inspection import inspect_proxy
from fedfm.recipe import Recipe
from fedfm.records import jsonl
from fedfm.server.runs.proxy_tools import build_proxy
from tests.small import small_recipe, write_deeper_model
from tests.system.test_outcome import plain_accuracy
from tests.system.test_resume import kill_at, outcome, write_recipe

pytestmark = pytest.mark.slow

PUBLIC = {"data": "builtin:pydoc", "limit": 32, "max_length": 24}
STAGE = {"steps": 3, "batch_size": 8}
FEDPFT: dict[str, Any] = {
    "kind": "fedpft",
    "ffn_keep": 0.5,
    "keep_layers": [0],
    "distill": {**STAGE},
    "interval": 2,
    "align": {**STAGE},
    "probe": 4,
}


def recipe_of(folder: Path, name: str = "small", **changes: Any) -> Recipe:
    folder.mkdir(exist_ok=True)
    recipe = {**small_recipe(folder), "name": name, "public": PUBLIC, "proxy": FEDPFT, **changes}
    return load_recipe(recipe)


def deep_model(folder: Path, name: str, layers: int) -> str:
    """A checkpoint of a builtin with more layers, so that some can be dropped."""
    write_deeper_model(name, folder, layers)
    return str(folder)


def test_t05_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    proxy = FEDPFT | {"bits": {"attention": 4, "ffn": 8}}
    more = {"public": PUBLIC, "proxy": proxy, "federation": {"clients": 6, "per_round": 3, "rounds": 5}}
    algorithm = {"name": "fedadam", "server_lr": 0.01}
    straight = run(write_recipe(tmp_path, "straight", algorithm, **more))
    assert straight.summary["proxy"]["version"] == 2
    held = digest(load(straight.folder.proxy / "model.safetensors"))
    for point, number in [("training", 3), ("saved", 2)]:
        recipe = write_recipe(tmp_path, f"killed-{point}", algorithm, **more)
        kill_at(recipe, point, number)
        resumed = resume(tmp_path / "runs" / f"killed-{point}")
        assert outcome(resumed) == outcome(straight), (point, number)
        assert digest(load(resumed.folder.proxy / "model.safetensors")) == held


def test_a_finished_run_goes_on_for_more_rounds(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"local": {"batch_size": 5, "learning_rate": 0.01, "lr_scheduler_type": "constant"}}
    proxy = {**FEDPFT, "interval": 1, "align": {**STAGE, "data": "clients"}}
    rounds = {"clients": 6, "per_round": 3, "rounds": 4}
    straight = run(recipe_of(tmp_path, "straight", proxy=proxy, federation=rounds, **changes))
    short = run(recipe_of(tmp_path, "short", proxy=proxy, federation={**rounds, "rounds": 2}, **changes))
    longer = resume(short.path, ["federation.rounds=4"])
    assert longer.summary["proxy"]["version"] == straight.summary["proxy"]["version"] == 3
    for part in ("adapter/adapter_model.safetensors", "proxy/model.safetensors"):
        assert digest(load(longer.path / part)) == digest(load(straight.path / part))


def test_a_proxy_that_is_the_backbone(tmp_path: Path) -> None:
    whole = {"kind": "fedpft", "ffn_keep": 1.0, "distill": {**STAGE}, "interval": 1, "probe": 4}
    rounds = {"clients": 6, "per_round": 3, "rounds": 2}
    finished = run(recipe_of(tmp_path, proxy=whole, federation=rounds))
    longer = resume(finished.path, ["federation.rounds=3"])
    assert longer.summary["proxy"]["disclosed"] == 1
    probes = [row for row in jsonl.records(longer.folder.metrics) if "gradient_cosine" in row]
    assert [row["gradient_cosine"] for row in probes] == [pytest.approx(1, abs=1e-12)]
    assert longer.summary["proxy"]["plug_in_gap"] == 0


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_the_adapter_is_one_of_the_real_backbone(tmp_path: Path, targets: str) -> None:
    base = tmp_path / "base"
    write_random_model("tiny-bert", base)
    tune = {"kind": "lora", "r": 4, "target_modules": targets}
    recipe = recipe_of(
        tmp_path, model={"path": str(base)}, tune=tune, local={"batch_size": 5, "learning_rate": 0.02, "epochs": 3}
    )
    finished = run(recipe)
    test = tmp_path / "test.jsonl"
    assert plain_accuracy(finished.folder.adapter, test, str(base)) == finished.summary["final"]["accuracy"]
    adapter = digest(load(finished.folder.adapter / "adapter_model.safetensors"))
    export(finished.path)  # made once more, from the checkpoint and the proxy's folder alone
    assert digest(load(finished.folder.adapter / "adapter_model.safetensors")) == adapter
    model = export(finished.path, merge=True)
    assert plain_accuracy(model, test, None) == finished.summary["final"]["accuracy"]


def test_what_a_run_says_of_its_proxy(tmp_path: Path) -> None:
    finished = run(recipe_of(tmp_path))
    said = finished.summary["proxy"]
    assert said["kind"] == "fedpft"
    assert said["version"] == 1
    assert said["parameters"]["blocks"] < said["parameters"]["backbone_blocks"]
    assert 0.5 < said["disclosed"] < 1
    assert said["plug_in_gap"] == pytest.approx(finished.summary["final"]["accuracy"] - said["final"]["accuracy"])
    assert said["first_download"] == finished.summary["bytes"]["first_download"]
    assert finished.summary["parameters"]["client"] < finished.summary["parameters"]["backbone"] + 4000
    stages = [row["stage"] for row in jsonl.records(finished.folder.metrics) if row["split"] == "proxy"]
    assert stages == ["constructed", "closed-form", "distilled", "before-alignment", "aligned"]
    assert "gradient" in finished.folder.report.read_text()
    client, manifest = load_proxy(finished.folder.proxy, AutoModelForSequenceClassification)
    assert manifest.version == 1
    assert sum(weight.numel() for weight in client.model.parameters()) == said["parameters"]["total"]


def test_a_proxy_built_ahead_gives_the_run_that_builds_its_own(tmp_path: Path) -> None:
    own = run(recipe_of(tmp_path, "own"))
    built = build_proxy(recipe_of(tmp_path, "other"), tmp_path / "built")
    assert [probe["stage"] for probe in built["probes"]] == ["constructed", "closed-form", "distilled"]
    ready = run(recipe_of(tmp_path, "ready", proxy={**FEDPFT, "path": str(tmp_path / "built")}))
    first, second = (load(finished.folder.adapter / "adapter_model.safetensors") for finished in (own, ready))
    assert digest(first) == digest(second)
    other = deep_model(tmp_path / "deep", "tiny-bert", 2)
    with pytest.raises(Exception, match="made of other weights"):
        run(recipe_of(tmp_path, "elsewhere", model={"path": other}, proxy={**FEDPFT, "path": str(tmp_path / "built")}))


def test_images_and_causal_language_models_have_proxies_too(tmp_path: Path) -> None:
    vit = {
        "name": "vit",
        "output": str(tmp_path / "runs"),
        "model": {"path": deep_model(tmp_path / "vit", "tiny-vit", 4)},
        "task": {"kind": "image-classification"},
        "data": {"train": "builtin:digits", "test": "builtin:digits", "limit": 200},
        "public": {"data": "builtin:digits", "limit": 64},
        "federation": {"clients": 4, "per_round": 2, "rounds": 2},
        "proxy": {**FEDPFT, "interval": 1},
    }
    llama = {
        **vit,
        "name": "llama",
        "model": {"path": deep_model(tmp_path / "llama", "tiny-llama", 4)},
        "task": {"kind": "causal-lm"},
        "data": {"train": "builtin:pydoc", "test": "builtin:pydoc", "limit": 40, "max_length": 24},
        "public": PUBLIC,
        "proxy": {**FEDPFT, "interval": 1, "align": {**STAGE, "data": "clients"}},
    }
    for recipe in (vit, llama):
        finished = run(load_recipe(recipe))
        stages = [row for row in jsonl.records(finished.folder.metrics) if row["split"] == "proxy"]
        errors = {row["stage"]: row["hidden_error"] for row in stages}
        assert errors["closed-form"] < errors["constructed"]
        assert finished.summary["clients"]["failed"] == 0


def test_a_proxy_can_be_sized_up_before_a_run() -> None:
    found = inspect_proxy(
        "builtin:tiny-bert",
        ffn_keep=0.5,
        keep_layers=[0],
        score="concat-l2",
        adapters=1,
        tokens=8,
        batch_size=2,
        public="builtin:pydoc",
    )
    whole = 4 * (16 * 16 + 16) + 4 * 16 + 2 * 16 * 32 + 32 + 16
    assert found["backbone"]["blocks"] == 2 * whole
    assert found["proxy"]["blocks"] == 2 * whole - 16 * (2 * 16 + 1)
    assert found["proxy"]["cut"] == 1
    assert found["proxy"]["flops"] < found["backbone"]["flops"]
    assert found["proxy"]["training_memory"] < found["backbone"]["training_memory"]
    assert -1 <= found["proxy"]["probe"]["gradient_cosine"] <= 1
    assert json.loads(json.dumps(found["settings"])) == {"ffn_keep": 0.5, "keep_layers": [0], "score": "concat-l2"}
