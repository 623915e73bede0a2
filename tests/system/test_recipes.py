"""Every recipe that comes along runs: cut to tiny models in all tests, as shipped by `make test-recipes`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fedfm import run
from fedfm.recipe import Recipe, load_recipe
from fedfm.recipe.presets import PRESETS
from tests.small import rows_for, write_deeper_model

TINY = {
    "image-classification": "tiny-vit",
    "image-text": "tiny-clip",
    "causal-lm": "tiny-llama",
    "instruct": "tiny-llama",
    "preference": "tiny-llama",
}
"""Kind of task → the model that takes the place of the recipe's; `tiny-bert` otherwise."""
LAYERS = 4
"""Of these models, so that a proxy can leave some whole."""
IN_MINUTES = 3
"""What a recipe may take on two cores."""
LARGE = ("paper-table1-bert", "paper-table1-roberta")
"""Recipes that need a GPU, and weights and data that do not come along."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the tiny models."""
    folder = tmp_path_factory.mktemp("models")
    for name in {"tiny-bert", *TINY.values()}:
        write_deeper_model(name, folder / name, LAYERS)
    return folder


def small(recipe: Recipe, models: Path) -> list[str]:
    """Overrides that leave the recipe's methods, and make it a matter of seconds."""
    federation, proxy = recipe.federation, recipe.proxy
    changes = [
        f"model.path={models / TINY.get(recipe.task.kind, 'tiny-bert')}",
        "data.limit=80",
        f"data.max_length={64 if recipe.task.kind in ('instruct', 'preference') else 24}",
        f"federation.per_round={'null' if recipe.protocol.asks_everyone else max(3, recipe.aggregate.least)}",
        "federation.rounds=2",
        "federation.min_examples=1",
        "local.max_steps=2",
        "evaluate.every=2",
        "runtime.processes=1",
    ]
    if recipe.model.text is not None:  # two models that are joined
        changes += [f"model.path={models / 'tiny-vit'}", f"model.text={models / 'tiny-bert'}"]
    if recipe.data.client is None:
        changes += [f"federation.clients={max(min(federation.clients or 6, 6), recipe.aggregate.least)}"]
    else:
        changes += ["federation.clients=null"]
    if recipe.federation.unseen:  # of three natural clients
        changes += ["federation.unseen=1", "federation.per_round=2"]
    if recipe.secure.sums_only:
        changes += ["secure.min_clients=3"]
    if hasattr(recipe.tune, "n_frequency"):
        changes += ["tune.n_frequency=16"]
    if getattr(recipe.tune, "r", 0) > 16:
        changes += ["tune.r=16"]
    if recipe.audit.canaries:
        changes += ["audit.canaries=2", "audit.repeats=2", "audit.references=4"]
    if recipe.protocol.public_examples:
        changes += ["protocol.examples=20"]
    if recipe.public is not None:
        changes += ["public.limit=40", "public.max_length=24"]
    if proxy.kind != "none" and getattr(proxy, "distill", None) is not None:
        changes += ["proxy.distill.steps=2", "proxy.distill.batch_size=4"]
    if getattr(proxy, "align", None) is not None:
        changes += ["proxy.align.steps=2", "proxy.align.batch_size=4"]
    return changes


def texts(recipe: Recipe, folder: Path) -> list[str]:
    """Overrides that put a few short texts in place of the recipe's data; images stay."""
    if "image" in recipe.task.kind or recipe.task.names_columns:
        return []
    path, public = folder / "texts.jsonl", folder / "public.jsonl"
    rows = [
        dict.fromkeys((*recipe.data.text, "prompt", "response"), row["text"])
        | {"chosen": row["text"], "rejected": "no"}
        | {recipe.data.label: row["label"], recipe.data.client or "site": "abc"[row["number"] % 3]}
        for row in rows_for(recipe.task.kind, 60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    public.write_text("".join(json.dumps({"text": f"thing {number} that is public"}) + "\n" for number in range(40)))
    changes = [f"data.train={path}", f"data.test={path}"]
    return changes if recipe.public is None else [*changes, f"public.data={public}", "public.text=text"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_runs_on_a_tiny_model(name: str, models: Path, tmp_path: Path) -> None:
    shipped = load_recipe(name)
    changes = [*small(shipped, models), *texts(shipped, tmp_path), f"run_dir={tmp_path / 'run'}"]
    finished = run(load_recipe(name, changes))
    assert finished.summary["status"] == "completed"
    assert finished.summary["bytes"]["up"] > 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.skipif("FEDFM_RECIPES" not in os.environ, reason="`make test-recipes` runs every recipe as shipped")
@pytest.mark.parametrize("name", [name for name in PRESETS if name not in LARGE])
def test_a_recipe_runs_as_shipped(name: str, tmp_path: Path) -> None:
    shipped = load_recipe(name)
    brought = [] if shipped.data.train.startswith("builtin:") else texts(shipped, tmp_path)
    finished = run(load_recipe(name, [*brought, f"run_dir={tmp_path / 'run'}"]))
    summary = finished.summary
    metric = summary["metric"]
    print(f"{name}: {summary['seconds']['total']:.0f} s, {metric} {summary['initial'][metric]:.3g} → ", end="")
    print(f"{summary['final'][metric]:.3g}")
    assert summary["status"] == "completed"
    assert summary["seconds"]["total"] < 60 * IN_MINUTES
