"""Reasons to refuse a run, or to resume one, that are found before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from fedfm.data.settings import BY_TASK
from fedfm.errors import DataError, FedfmError, RecipeError, StorageError
from fedfm.recipe import Recipe, load_recipe
from fedfm.recipe.presets import PRESETS
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.federated_data import prepare_data
from fedfm.server.runs import refusals
from fedfm.server.runs.refusals import obstacles, refuse_unresumable, refuse_unrunnable
from tests.run_folders import write_run
from tests.small import small_recipe


@pytest.fixture
def ended(tmp_path: Path) -> RunFolder:
    """A finished run of two rounds."""
    folder = write_run(tmp_path / "ended", clients=4, rounds=2)
    recipe = small_recipe(tmp_path, name="ended", federation={"clients": 4, "rounds": 2})
    folder.write_text(folder.recipe, yaml.safe_dump(recipe))
    folder.write_text(folder.report, "<html>")
    (folder.checkpoints / "round-0002").mkdir(parents=True)
    return folder


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def test_all_that_this_machine_lacks_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "find_spec", lambda module: None)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    recipe = small_recipe(tmp_path) | {"run_dir": str(tmp_path / "taken"), "report_to": ["tensorboard"], "sed": 3}
    recipe |= {"runtime": {"kind": "flower"}, "public": {"data": "nowhere.txt"}}
    recipe["data"] = {"train": "no/train.csv", "test": "no/test.csv", "validation": "~/no/validation.csv"}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError) as caught:
        refuse_unrunnable(file)
    wrong = {problem.where for problem in caught.value.problems}
    assert wrong == {
        *("sed", "run_dir", "runtime.kind", "report_to"),
        *("data.train", "data.validation", "data.test", "public.data"),
    }


def test_sources_of_tasks_are_looked_for(tmp_path: Path) -> None:
    tasks = [{"name": "a", "train": "no/train.csv", "test": "builtin:pydoc"}, {"name": "b", "train": 3}, "c"]
    values = {"name": "new", "output": str(tmp_path), "data": {"train": "tasks"}, "task": {"tasks": tasks}}
    assert [problem.where for problem in obstacles(values)] == ["task.tasks[0].train"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_that_brings_its_data_can_be_run(name: str, tmp_path: Path) -> None:
    train = load_recipe(name).data.train
    if not str(train).startswith("builtin:") and train != BY_TASK:
        pytest.skip("its data are the user's")
    refuse_unrunnable(name, [f"run_dir={tmp_path / 'run'}"])


def test_what_is_no_path_is_left_to_those_who_read_it(tmp_path: Path) -> None:
    data = {"train": ["builtin:pydoc", "no/*.csv"], "validation": 0.1, "test": "hf:owner/name"}
    assert obstacles({"name": "new", "output": str(tmp_path), "data": data, "public": {"data": 3}}) == []


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"name": "a/../..", "output": "{tmp}"}, "name"),
        ({"name": "run", "output": "{tmp}/file"}, "name"),
        ({"name": "run", "run_dir": "{tmp}/file"}, "run_dir"),
        ({"name": "run", "run_dir": "{tmp}/full"}, "run_dir"),
    ],
)
def test_a_folder_that_cannot_be_the_runs(tmp_path: Path, values: dict[str, str], where: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    found = obstacles({key: value.replace("{tmp}", str(tmp_path)) for key, value in values.items()})
    assert [problem.where for problem in found] == [where]


def test_a_finished_run_says_what_to_set(ended: RunFolder) -> None:
    before = contents(ended)
    with pytest.raises(RecipeError, match=r"all 2 rounds are played; to play more, set federation\.rounds=N"):
        refuse_unresumable(ended)
    with pytest.raises(RecipeError, match="all 2 rounds are played"):
        refuse_unresumable(ended, ["federation.rounds=1"])
    refuse_unresumable(ended, ["federation.rounds=3"])
    ended.report.unlink()  # killed before its report was written
    refuse_unresumable(ended)
    assert contents(ended).keys() <= before.keys()


def test_a_run_that_stopped_early_is_finished(ended: RunFolder) -> None:
    recipe = yaml.safe_load(ended.recipe.read_text())
    ended.write_text(ended.recipe, yaml.safe_dump(recipe | {"federation": {"clients": 4, "rounds": 9}}))
    for overrides in ([], ["federation.rounds=20"]):
        with pytest.raises(RecipeError, match="stopped early, after round 2 of 9"):
            refuse_unresumable(ended, overrides)


@pytest.mark.parametrize("gone", ["checkpoints", "the folders in it", "all but LATEST"])
def test_without_its_checkpoints_a_run_is_not_started_over(ended: RunFolder, gone: str) -> None:
    ended.summary.unlink()
    shutil.rmtree(ended.checkpoints)
    if gone != "checkpoints":
        ended.checkpoints.mkdir()
    if gone == "all but LATEST":
        ended.metrics.unlink()
        ended.write_text(ended.latest, "round-0002\n")
    before = contents(ended)
    with pytest.raises(StorageError, match="holds no checkpoint"):
        refuse_unresumable(ended)
    assert contents(ended) == before


def test_a_run_that_was_killed_before_round_1_may_begin_again(ended: RunFolder) -> None:
    shutil.rmtree(ended.checkpoints)
    for path in (ended.summary, ended.report, ended.metrics):
        path.unlink()
    ended.append(ended.metrics, {"round": 0, "split": "test", "client": None, "loss": 0.7})
    refuse_unresumable(ended)


@pytest.mark.parametrize("override", ["seed=1", "tune.r=4", "data.test=0.3", "algorithm.name=fedadam"])
def test_what_would_make_it_another_run(ended: RunFolder, override: str) -> None:
    with pytest.raises(FedfmError, match="would make it a different run"):
        refuse_unresumable(ended, [override])


def test_what_is_wrong_in_all_sources_is_told_at_once(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    named = {"test": "empty.jsonl", "validation": "missing.jsonl"}
    recipe["data"] |= {split: str(tmp_path / name) for split, name in named.items()} | {"label": "lb"}
    with pytest.raises(RecipeError) as caught:
        prepare_data(Recipe.model_validate(recipe))
    assert [problem.where for problem in caught.value.problems] == ["data.label", "data.test", "data.validation"]
    (tmp_path / "empty.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"(?s)no column `lb`.*empty\.jsonl:1.*missing\.jsonl"):
        prepare_data(Recipe.model_validate(recipe))


@pytest.mark.parametrize(
    "override",
    [
        *("federation.rounds=100000000000000000000", "federation.clients=1e20", "federation.per_round=99999999999"),
        *("local.batch_size=100000000000", "local.epochs=1000000000", "evaluate.batch_size=100000000000"),
        *("runtime.processes=99999999", "data.max_length=99999999999", "tune.r=10000000000"),
    ],
)
def test_absurd_sizes_meet_a_limit(override: str) -> None:
    with pytest.raises(RecipeError, match=override.partition("=")[0]):
        load_recipe("quick", [override])
