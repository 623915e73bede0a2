"""Mistyped commands: each error says what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedfm.cli.main import main
from tests.run_folders import write_run


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in it, a recipe, and an empty folder."""
    folder = tmp_path_factory.mktemp("place")
    write_run(folder / "ended", clients=3, rounds=1)
    (folder / "my.yaml").write_text("name: x\n\tmodel: y\n")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(
    "command", [[], ["run"], ["check"], ["keys", "new"], ["proxy"], ["proxy", "inspect"], ["client"]]
)
def test_the_short_word_for_help(command: list[str]) -> None:
    short = invoke(*command, "-h")
    assert short.exit_code == 0
    assert short.output == invoke(*command, "--help").output


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--rounds", "3"], "federation.rounds=3"),
        (["--rounds=3"], "federation.rounds=3"),
        (["--num-rounds", "3"], "federation.rounds=3"),
        (["--federation.rounds", "3"], "federation.rounds=3"),
        (["--lr", "1e-3"], "local.learning_rate=1e-3"),
        (["--learning-rate=1e-3"], "local.learning_rate=1e-3"),
        (["--learning_rte", "1"], "local.learning_rate=1"),
        (["--seed", "7"], "seed=7"),
        (["--output_dir", "x"], "output=x"),
        (["--seed", "--json"], "seed=VALUE"),
        (["-n", "5"], "federation.rounds=5"),
        (["--zzzzzz", "1"], "federation.rounds=5"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_key_written_as_an_option(command: str, arguments: list[str], answer: str) -> None:
    result = invoke(command, "quick", *arguments)
    assert result.exit_code == 2
    assert f"Keys of the recipe are set without dashes: {answer}" in result.output


def test_an_option_that_is_nearly_one_is_proposed() -> None:
    assert "Did you mean '--profile'?" in invoke("run", "quick", "--profil").output


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["run", "{place}/ended"], ["is the folder of a run", "fedfm resume {place}/ended", "name=OTHER"]),
        (["check", "{place}/empty"], ["is a folder; give the path of the recipe file in it"]),
        (["run", "{place}/my.yaml"], ["my.yaml:2", "a tab is used where only spaces are allowed"]),
        (["resume", "{place}/my.yaml"], ["is a file, not the folder of a run", "fedfm run {place}/my.yaml"]),
        (["report", "{place}/my.yaml"], ["is a file, not the folder of a run"]),
        (["status", "{place}/ended/summary.json"], ["is a file; the run's folder is {place}/ended"]),
        (["export", "{place}"], ["has no recipe.yaml; runs in it: ended"]),
        (["resume", "{place}/empty"], ["is not a run's folder: it has no recipe.yaml"]),
        (["status", "{place}/empty/../missing"], ["no such folder: {place}/missing"]),
        (["run", "{place}/empty/../missing.yaml"], ["no such file: {place}/missing.yaml"]),
        (
            ["check", "quick", "data.train={place}/empty/../x.csv"],
            ["data.train: no such file or folder: {place}/x.csv"],
        ),
        (["cp", "quick", "{place}/empty"], ["is a folder; give the path of a new file in it"]),
        (["cp", "quik", "{place}/new.yaml"], ["did you mean `quick`"]),
        (["run", "quick ", "seed=1"], ["did you mean the preset `quick`"]),
        (["run", "quick", "rounds=3"], ["rounds: unknown key — it belongs under `federation`"]),
        (["run", "quick", "federation.rounds"], ["an override is written KEY=VALUE", "got `federation.rounds`"]),
        (["run", "quick", "federation.rounds="], ["has no value"]),
        (["rnu", "quick"], ["No such command 'rnu'", "run"]),
        (["run"], ["Missing argument 'RECIPE'"]),
        (["run", "a\0b"], ["NUL"]),
        (["status", "a\0b"], ["NUL"]),
    ],
)
def test_what_to_write_instead(place: Path, command: list[str], said: list[str]) -> None:
    result = invoke(*(word.replace("{place}", str(place)) for word in command))
    assert result.exit_code == 2, result.output
    for words in said:
        assert words.replace("{place}", str(place)) in result.output


def test_the_home_folder_is_found_in_paths(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    assert invoke("status", "~/empty/../ended").exit_code == 0
    assert "my.yaml:2" in invoke("run", "~/my.yaml").output
    assert f"{place}/ended exists already" in invoke("check", "quick", "run_dir=~/ended").output
