"""Recipes drawn from the registries: each runs two rounds, or is refused with both keys named."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from fedfm import run
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe
from fedfm.recipe.fields import all_keys
from tests.small import LABEL_OF, write_deeper_model, write_rows, write_rows_for
from tools import algorithms
from tools.matrix import PAGE, Pick, axes, merged, page

AXES = axes()
ELSEWHERE = {"sites", "instruct", "seq2seq", "preference", "retrieval", "multi", "tasks", "image-text"}
"""Choices that need other data than the folder below has; each has tests of whole runs in `tests/system`."""
LOCAL = {where: [pick for pick in picks if pick.name not in ELSEWHERE] for where, picks in AXES.items()}
"""Every axis; real sites are tested with machines of their own."""

MODELS = {"image-classification": "tiny-vit", "causal-lm": "tiny-llama"}
"""Kind of task → a small model for it; text is read by `tiny-bert` otherwise."""
LAYERS = 4
"""Layers of the models, so that a proxy can drop some."""

TINY: dict[str, Any] = {
    "name": "drawn",
    "task": {"kind": "text-classification"},
    "federation": {"clients": 3, "per_round": 2, "rounds": 2},
    "local": {"batch_size": 4, "max_steps": 1, "learning_rate": 0.01},
    "runtime": {"kind": "local", "processes": 2, "threads": 1},
    "evaluate": {"every": 2},
}
PROXIES: dict[str, dict[str, Any]] = {
    "fedpft": {
        "keep_layers": [0],
        "distill": {"steps": 1, "batch_size": 2},
        "interval": 1,
        "align": {"steps": 1, "batch_size": 2},
        "probe": 0,
    },
    "offsite": {"layers": 3, "adapters": 1, "distill": {"steps": 1, "batch_size": 2}, "probe": 0},
}
"""What makes a proxy quick; the choices are those of the axis."""
PROTOCOLS: dict[str, dict[str, Any]] = {
    "buffered": {"size": 2},
    "distillation": {"examples": 4, "steps": 1, "digest_steps": 1},
    "learned-soup": {"steps": 1, "batch_size": 4},
    "feature-transfer": {"samples": 50},
    "evolution": {"keep": 2, "variations": 1},
}
"""What fits three clients, and takes a moment."""
SECURE: dict[str, dict[str, Any]] = {
    "secagg": {"secure": {"min_clients": 3}, "federation": {"per_round": 3}},
}
"""Likewise."""

QUICKLY = settings(suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate], print_blob=False)
"""A failure is not shrunk: each try is a run."""

DOTTED = sorted(("updates.kind", *(key.where for key in all_keys(Recipe) if "." in key.where)), key=len, reverse=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short texts with labels and sites, images of two classes, and models with a few layers."""
    folder = tmp_path_factory.mktemp("matrix")
    for name in {"tiny-bert", *MODELS.values()}:
        write_deeper_model(name, folder / name, LAYERS)
    write_rows(folder / "train.jsonl", 24)
    write_rows(folder / "test.jsonl", 6, start=100)
    write_rows(folder / "public.jsonl", 6, start=200)
    for kind in LABEL_OF:
        write_rows_for(kind, folder / f"{kind}-train.jsonl", 24)
        write_rows_for(kind, folder / f"{kind}-test.jsonl", 6, start=100)
    rng = np.random.default_rng(0)
    for split, count in {"train": 24, "test": 6, "public": 6}.items():
        images = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        sites = np.array(list("abc") * count)[:count]
        np.savez(folder / f"{split}.npz", image=images, label=np.arange(count) % 2, site=sites)
    return folder


def recipe_of(folder: Path, picks: list[Pick]) -> dict[str, Any]:
    """A recipe of a few seconds that makes these choices."""
    values = merged(TINY, *(pick.values for pick in picks))
    task, proxy = values["task"]["kind"], values.get("proxy", {}).get("kind", "none")
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test", "public")}
    if task == "image-classification":
        files = {split: str(folder / f"{split}.npz") for split in files}
    elif task in LABEL_OF:
        files |= {split: str(folder / f"{task}-{split}.jsonl") for split in ("train", "test")}
    data = {"train": files["train"], "test": files["test"], "validation": files["test"], "max_length": 16}
    values = merged(values, {"model": {"path": str(folder / MODELS.get(task, "tiny-bert"))}, "data": data})
    protocol = values.get("protocol", {}).get("kind", "star")
    values = merged(values, {"protocol": {"kind": protocol, **PROTOCOLS.get(protocol, {})}})
    values = merged(values, SECURE.get(values.get("secure", {}).get("kind", "none"), {}))
    if protocol == "distillation":
        values = merged(values, {"public": {"data": files["public"]}})
    if proxy != "none":
        values = merged(values, {"public": {"data": files["public"]}, "proxy": PROXIES.get(proxy, {})})
    return values


def assert_runs_or_is_refused(values: dict[str, Any], output: Path) -> None:
    try:
        finished = run(merged(values, {"output": str(output)}))
    except RecipeError as error:
        for problem in error.problems:
            said = re.sub(r"\[\d+\]", "", problem.message)  # the place of a stage
            named = [key for key in DOTTED if re.search(rf"\b{re.escape(key)}\b", said)]
            assert problem.where, f"says no key: {problem}"
            names_model = values["model"]["path"] in problem.message  # which one, in place of `model.path`
            assert names_model or set(named) - {problem.where}, f"names no second key: {problem}"
        return
    assert finished.summary["rounds"] == 2
    assert np.isfinite(finished.summary["final"]["loss"])


def choices(of: dict[str, list[Pick]]) -> st.SearchStrategy[list[Pick]]:
    return st.tuples(*(st.sampled_from(picks) for picks in of.values())).map(list)


@pytest.mark.slow
@settings(QUICKLY, max_examples=30)
@given(choices({**LOCAL, "runtime.kind": LOCAL["runtime.kind"][:1]}))
def test_local_combinations_run_or_are_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, picks: list[Pick]
) -> None:
    assert_runs_or_is_refused(recipe_of(folder, picks), tmp_path_factory.mktemp("runs"))


@pytest.mark.skipif("FEDFM_MATRIX" not in os.environ, reason="minutes; `make test-matrix` runs it")
@settings(QUICKLY, max_examples=200)
@given(choices(LOCAL))
def test_combinations_under_every_runtime_run_or_are_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, picks: list[Pick]
) -> None:
    kind = next(pick.name for pick in picks if pick.where == "runtime.kind")
    assume(find_spec({"flower": "flwr"}.get(kind, kind)) is not None or kind == "local")
    values = recipe_of(folder, picks)
    if kind != "local":
        values["runtime"] = {"kind": kind, "nodes": 1, "threads": 1}
    assert_runs_or_is_refused(values, tmp_path_factory.mktemp("runs"))


def test_the_page_is_that_of_the_classes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make schema`"


def test_the_list_of_algorithms_is_that_of_the_classes() -> None:
    page = algorithms.PAGE.read_text(encoding="utf-8")
    assert page == algorithms.written(page), "run `make schema`"


def test_every_method_can_be_chosen_without_settings() -> None:
    """The matrix tries each method with its defaults."""
    assert {len(picks) > 1 for picks in AXES.values()} == {True}
    assert {"algorithm.name", "tune.kind", "proxy.kind", "runtime.kind", "task.kind"} <= AXES.keys()
