"""How many clients share a pass: by the recipe, by what prevents it, and as the run records it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.builtin import write_random_model
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import Experiment, build_experiment
from tests.small import small_recipe


def built(folder: Path, **changes: Any) -> Experiment:
    return build_experiment(load_recipe(small_recipe(folder, **changes)))


def test_auto_takes_a_whole_cohort_where_it_fits_and_writes_it_down(tmp_path: Path) -> None:
    experiment = built(tmp_path)
    assert experiment.worker.stacking is not None
    assert experiment.worker.stacking.clients == 3
    assert experiment.recipe.runtime.stack == 3
    assert experiment.training == "3 clients at a time"


def test_auto_takes_fewer_where_batches_are_large(tmp_path: Path) -> None:
    data = small_recipe(tmp_path)["data"] | {"max_length": 128}
    experiment = built(tmp_path, data=data, local={"batch_size": 32})
    assert experiment.recipe.runtime.stack == 2


def test_a_number_is_taken_as_it_is(tmp_path: Path) -> None:
    assert built(tmp_path, runtime={"stack": 2}).worker.stacking.clients == 2  # type: ignore[union-attr]
    one = built(tmp_path, runtime={"stack": 1})
    assert one.worker.stacking is not None
    assert one.training == "one client at a time"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"runtime": {"stack": "off"}}, "runtime.stack: off"),
        ({"tune": {"kind": "full"}}, "a model of its own"),
        ({"local": {"dropout": True}}, "dropout"),
        ({"tune": {"kind": "lora", "lora_dropout": 0.1}}, "dropout"),
        ({"model": {"path": "builtin:tiny-deberta"}}, "relative positions"),
    ],
)
def test_what_stands_in_the_way_is_said(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    experiment = built(tmp_path, **changes)
    assert experiment.worker.stacking is None
    assert experiment.recipe.runtime.stack == "off"
    assert experiment.training.startswith("one client at a time (")
    assert reason in experiment.training


def test_bfloat16_is_refused_where_clients_train_in_a_plain_loop(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="clients that train one by one compute in float32") as caught:
        built(tmp_path, runtime={"stack": "off", "precision": "bfloat16"})
    assert caught.value.problems[0].where == "runtime.precision"


@pytest.mark.parametrize(
    ("gains", "long", "changes", "precision"),
    [
        (True, True, {}, "bfloat16"),
        (True, True, {"runtime": {"precision": "float32"}}, "float32"),
        (True, True, {"runtime": {"stack": "off"}}, "float32"),
        (True, True, {"tune": {"kind": "prefix"}}, "float32"),
        (True, False, {}, "float32"),
        (False, True, {}, "float32"),
        (False, True, {"runtime": {"precision": "bfloat16"}}, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_it_pays_and_the_run_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gains: bool, long: bool, changes: dict[str, Any], precision: str
) -> None:
    monkeypatch.setattr("fedfm.hosts.parallelism.gains_by_bfloat16", lambda device: gains)
    monkeypatch.setattr("fedfm.hosts.parallelism.LONG", 0.0 if long else float("inf"))
    changes = {"runtime": {"processes": 1}, **changes}
    experiment = built(tmp_path, **changes)
    assert experiment.recipe.runtime.precision == precision
    assert ("bfloat16" in experiment.training) == (precision == "bfloat16")
    if experiment.worker.stacking is not None:
        dtype = experiment.worker.stacking.blocks.dtype
        assert dtype == (torch.bfloat16 if precision == "bfloat16" else None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tune": {"kind": "prefix"}}, "a prefix's keys and values"),
        ({"model": {"path": "builtin:tiny-t5"}}, "blocks of t5"),
        ({"model": {"path": "builtin:tiny-deberta"}, "tune": {"kind": "head"}}, "blocks of deberta-v2"),
        (
            {
                "proxy": {"kind": "fedpft", "keep_layers": [], "interval": 1, "align": {"data": "clients"}},
                "public": {"data": "builtin:pydoc", "limit": 20},
            },
            "clients count how much neurons are used",
        ),
    ],
)
def test_bfloat16_is_refused_where_it_would_not_be_computed(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason) as caught:
        built(tmp_path, runtime={"precision": "bfloat16"}, **changes)
    assert caught.value.problems[0].where == "runtime.precision"


def test_the_commit_of_a_hubs_model_is_kept_beside_what_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_commit(*args: Any, **kwargs: Any) -> Backbone:
        return dataclasses.replace(load_backbone(*args, **kwargs), revision="0123abcd")

    monkeypatch.setattr("fedfm.server.experiment.build.load_backbone", with_commit)
    write_random_model("tiny-bert", tmp_path / "model")
    recipe = built(tmp_path, model={"path": str(tmp_path / "model")}).recipe
    assert recipe.model.revision == "0123abcd"
    assert recipe.runtime.stack == 3


def test_the_number_of_processes_is_part_of_the_run(tmp_path: Path) -> None:
    assert built(tmp_path).recipe.runtime.processes == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stacks_of_any_height_train_alike(tmp_path: Path, precision: str) -> None:
    losses = []
    for stack in (1, 3):
        recipe = small_recipe(
            tmp_path,
            runtime={"stack": stack, "precision": precision},
            local={"batch_size": 5, "optimizer": "sgd", "learning_rate": 0.1},
        )
        recipe["run_dir"] = str(tmp_path / f"{precision}-{stack}")
        metrics = fedfm.run(load_recipe(recipe)).metrics
        losses.append(metrics[metrics["split"] == "train"]["loss"].tolist())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5 if precision == "float32" else 0.02)


def test_how_many_share_a_pass_does_not_depend_on_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides bits: a run that is worth two processes has the same passes over Flower, or with one or three."""
    monkeypatch.setattr("fedfm.hosts.parallelism.SHARED", 0.0)
    monkeypatch.setattr("fedfm.hosts.parallelism.cpu_count", lambda: 2)
    monkeypatch.setattr("fedfm.hosts.parallelism.can_fork", lambda: True)
    found = {
        str(runtime): built(tmp_path, runtime=runtime)
        for runtime in ({}, {"processes": 1}, {"processes": 3}, {"kind": "flower"}, {"kind": "ray"}, {"threads": 2})
    }
    assert {kind: experiment.recipe.runtime.stack for kind, experiment in found.items()} == dict.fromkeys(found, 2)
    assert found["{}"].processes == 2
    assert found["{'threads': 2}"].processes == 1
