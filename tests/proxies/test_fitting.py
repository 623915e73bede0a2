"""A proxy once made is taken from the cache, bit for bit, by every run that would make the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm import run
from fedfm.clients import use_threads
from fedfm.errors import RecipeError
from fedfm.params import digest
from fedfm.proxies.base import ClientModel
from fedfm.proxies.fedpft import pair as fedpft_pair
from fedfm.proxies.proxy_model import ProxyModel
from fedfm.recipe import load_recipe
from fedfm.server import plan
from fedfm.server.experiment.build import Experiment, build_experiment
from tests.small import small_recipe
from tests.started import finish
from tests.system.test_proxies import deep_model

DISTILL = {"steps": 2, "batch_size": 8}
FEDPFT: dict[str, Any] = {
    "kind": "fedpft",
    "score": "reconstruct",
    "keep_layers": [0],
    "distill": DISTILL,
    "interval": 1,
    "align": {"steps": 2, "batch_size": 8},
    "probe": 4,
}
FOUND = {"neurons": "found", "closed-form": "found", "distilled": "found"}


@pytest.fixture
def recipe(own_cache: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe with a FedPFT proxy, and an empty cache."""
    federation = {"clients": 3, "per_round": 2, "rounds": 2}
    public = {"data": str(tmp_path / "train.jsonl"), "limit": 55, "max_length": 16}
    return small_recipe(tmp_path, public=public, proxy=FEDPFT, federation=federation)


@pytest.fixture
def offsite(recipe: dict[str, Any], deep: str) -> dict[str, Any]:
    """A recipe with an offsite proxy."""
    proxy = {"kind": "offsite", "layers": 3, "adapters": 1, "distill": DISTILL, "probe": 4}
    return {**recipe, "model": {"path": deep}, "proxy": proxy}


@pytest.fixture
def deep(tmp_path: Path) -> str:
    """The folder of a BERT of four layers."""
    return deep_model(tmp_path, "tiny-bert", 4)


def built(recipe: dict[str, Any], *overrides: str) -> Experiment:
    return build_experiment(load_recipe(recipe, overrides))


def prepared(recipe: dict[str, Any], *overrides: str) -> tuple[str, list[dict[str, Any]]]:
    """The digest of a proxy as prepared, and its records."""
    experiment = built(recipe, *overrides)
    records: list[dict[str, Any]] = []
    with use_threads(1):
        version = experiment.client_model.prepare(experiment.start, records.append)
    return digest(version.own), records


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tensors"))


@pytest.fixture
def unfit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, nothing may be scored or fitted."""

    def forbid() -> None:
        def fail(*_: object, **__: object) -> None:
            pytest.fail("a proxy is made")

        for module, name in ((fedpft_pair, "scores"), (fedpft_pair, "refit_outputs")):
            monkeypatch.setattr(module, name, fail)
        monkeypatch.setattr("fedfm.proxies.pair.distill", fail)

    return forbid


@pytest.mark.parametrize("kind", ["recipe", "offsite"])
def test_a_proxy_that_is_found_is_the_one_that_was_made(
    kind: str,
    request: pytest.FixtureRequest,
    own_cache: Path,
    unfit: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = request.getfixturevalue(kind)
    made = prepared(recipe)
    assert len(entries(own_cache)) == (6 if kind == "recipe" else 3)
    unfit()
    monkeypatch.setattr(ProxyModel, "compare", lambda *_: pytest.fail("proxy and backbone are compared"))
    assert prepared(recipe) == made


def test_a_damaged_entry_is_made_again(recipe: dict[str, Any], own_cache: Path) -> None:
    made = prepared(recipe)
    contents = [entry.read_bytes() for entry in entries(own_cache)]
    for entry in entries(own_cache):
        entry.write_bytes(entry.read_bytes()[:-40])
    assert prepared(recipe) == made
    assert [entry.read_bytes() for entry in entries(own_cache)] == contents


def test_a_run_is_the_same_with_an_empty_and_with_a_filled_cache(
    recipe: dict[str, Any], unfit: Callable[[], None]
) -> None:
    def outcome(name: str) -> tuple[Any, ...]:
        folder = run(load_recipe({**recipe, "name": name})).folder.path
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((folder / "summary.json").read_text())
        kept = {key: summary[key] for key in ("initial", "final", "proxy")}
        kept["proxy"].pop("seconds")
        return (
            [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
            kept,
            (folder / "adapter" / "adapter_model.safetensors").read_bytes(),
            (folder / "proxy" / "model.safetensors").read_bytes(),
        )

    first = outcome("first")
    assert {row.get("stage") for row in first[0]} >= {"constructed", "closed-form", "distilled", "aligned"}
    unfit()
    assert outcome("second") == first


SAME = [
    ["tune.r=2"],
    ["tune.kind=dora"],
    ["local.learning_rate=0.5", "federation.rounds=9"],
    ["proxy.interval=null", "proxy.align={}"],
    ["proxy.probe=0"],
    ["proxy.plug_in.distill={}"],
]
OTHER: dict[str, list[str]] = {
    "proxy.distill.steps=3": ["neurons", "closed-form"],
    "proxy.distill.learning_rate=0.1": ["neurons", "closed-form"],
    "proxy.ridge=0.5": ["neurons"],
    "proxy.ffn_keep=0.5": [],
    "proxy.score=activation": [],
    "public.limit=50": [],
    "public.max_length=12": [],
    "seed=1": [],
    "model.path=builtin:tiny-roberta": [],
}


def making(recipe: dict[str, Any], *overrides: str) -> dict[str, str]:
    model: ClientModel = built(recipe, *overrides).client_model
    with use_threads(1):
        return dict(model.making)


def test_what_decides_the_proxy_is_in_the_key_and_nothing_else(
    recipe: dict[str, Any],
) -> None:
    prepared(recipe)
    for overrides in SAME:
        assert making(recipe, *overrides) == FOUND, overrides
    for override, found in OTHER.items():
        states = making(recipe, override)
        assert [name for name, state in states.items() if state == "found"] == found, override
    model = built(recipe).client_model
    with use_threads(2):
        assert set(list(model.making.values())[1:]) == {"missing"}


def test_the_head_is_in_the_key_of_a_stage_that_reads_predictions(tmp_path: Path) -> None:
    def settings(gamma: float) -> dict[str, object]:
        proxy = {**FEDPFT, "distill": {**DISTILL, "predictions": gamma}}
        public = {"data": str(tmp_path / "train.jsonl"), "limit": 55, "max_length": 16}
        task = {"kind": "causal-lm"}
        recipe = small_recipe(tmp_path, model={"path": "builtin:tiny-gpt2"}, task=task, public=public, proxy=proxy)
        model = built(recipe).client_model
        assert isinstance(model, ProxyModel)
        assert model.public is not None
        distilled = model.pair.stages(model.tunable, model.server_tunable, model.public, seed=0)[-1]
        head = distilled.settings.get("head")
        assert head in (None, model.pair.backbone.identity.head)
        return dict(distilled.settings)

    assert "head" in settings(0.5)
    assert "head" not in settings(0)


def test_predictions_of_a_new_head_are_refused(recipe: dict[str, Any]) -> None:
    model = built(recipe, "proxy.distill.predictions=0.2").client_model
    with pytest.raises(RecipeError, match=r"proxy\.distill\.predictions: .* new head"):
        _ = model.making


def test_fitting_does_not_depend_on_what_is_tuned(recipe: dict[str, Any], own_cache: Path) -> None:
    """DoRA's columns are scaled to their lengths, which rounds; with fitting, adapters are switched off."""
    digests = set()
    for kind in ("lora", "dora", "head"):
        digests.add(prepared(recipe, f"tune.kind={kind}")[0])
        shutil.rmtree(own_cache)
    assert len(digests) == 1


def test_records_are_those_of_the_run_and_not_of_another(recipe: dict[str, Any], own_cache: Path) -> None:
    changes = [["tune.r=2"], ["tune.lora_alpha=64"], ["tune.kind=head"], ["proxy.probe=2"], ["proxy.probe=0"]]
    made = prepared(recipe)
    found = [prepared(recipe, *overrides) for overrides in changes]
    assert found[0][1] != made[1]
    shutil.rmtree(own_cache)
    for overrides, (proxy, records) in zip(changes, found, strict=True):
        assert proxy == made[0]
        assert (proxy, records) == prepared(recipe, *overrides), overrides


def _make(folder: str, recipe: dict[str, Any]) -> None:
    os.environ["FEDFM_CACHE"] = folder
    torch.set_num_threads(1)
    print(prepared(recipe)[0])


def test_two_processes_make_the_same_proxy_at_once(recipe: dict[str, Any], own_cache: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: finish(_make, str(own_cache), recipe), range(2)))
    assert [done.code for done in both] == [0, 0], both[0].errors
    assert {done.output.split()[-1] for done in both} == {prepared(recipe)[0]}
    assert not list(own_cache.glob("scratch-*"))


def test_check_says_what_making_takes_until_it_is_kept(recipe: dict[str, Any]) -> None:
    before = plan(load_recipe(recipe))["proxy"]
    assert before["making"] == {"neurons": "made", "closed-form": "missing", "distilled": "missing"}
    assert before["cpu_seconds"].keys() == {"closed-form", "distilled", "alignment"}
    assert all(0 < seconds < 60 for seconds in before["cpu_seconds"].values())
    prepared(recipe)
    after = plan(load_recipe(recipe))["proxy"]
    assert after["making"] == FOUND
    assert after["cpu_seconds"].keys() == {"alignment"}
