"""The status of runs that are in progress, have ended, or were killed."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import fedfm
from fedfm.cli.status_display import render_status
from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.records.folder import RunFolder
from fedfm.records.status import run_status
from tests.small import small_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fedfm.run(load_recipe(small_recipe(tmp_path_factory.mktemp("run")))).folder


def rendered(folder: RunFolder) -> str:
    terminal = Console(width=120, record=True, file=StringIO())
    terminal.print(render_status(run_status(folder.path)))
    return terminal.export_text()


def test_a_run_that_is_over(run: RunFolder) -> None:
    found = run_status(run.path)
    assert (found["state"], found["process"], found["round"], found["rounds"]) == ("completed", None, 4, 4)
    assert (found["metric"], found["clients"]) == ("accuracy", {})
    assert found["value"] == fedfm.Run(run.path).summary["final"]["accuracy"]
    assert "small: completed, 4 of 4 rounds" in rendered(run)
    assert (found["measured_on"], "on the test set" in rendered(run)) == ("test", True)


def test_a_run_that_goes_on_and_one_that_was_killed(run: RunFolder, tmp_path: Path) -> None:
    with run.lock():
        assert run_status(run.path)["state"] == "running"
        assert f"running (process {os.getpid()})" in rendered(run)
    summary = run.summary.read_text()
    run.summary.unlink()
    try:
        assert run_status(run.path)["state"] == "stopped"
    finally:
        run.summary.write_text(summary)


def test_clients_with_trouble_come_first_and_sites_are_all_shown(run: RunFolder) -> None:
    events, recipe = run.events.read_text(), run.recipe.read_text()
    run.append(run.events, {"round": 3, "kind": "failed", "client": "3", "reason": "out of memory"})
    run.append(run.events, {"round": 4, "kind": "refused", "client": "3", "reason": "not finite"})
    try:
        (client,) = run_status(run.path)["clients"].values()
        assert (client["failed"], client["refused"], client["reason"]) == (1, 1, "not finite")
        path = next(line for line in recipe.splitlines() if "train:" in line)
        run.recipe.write_text(recipe.replace(path, path.split("train:")[0] + "train: sites"))
        assert len(run_status(run.path)["clients"]) == 6
        assert rendered(run).splitlines()[5].split()[0] == "3"
    finally:
        run.events.write_text(events)
        run.recipe.write_text(recipe)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        run_status(tmp_path)
