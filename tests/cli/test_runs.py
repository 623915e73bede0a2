from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedfm.cli.main import main
from fedfm.yaml_text import render
from tests.small import small_recipe

TWO_ROUNDS = {"clients": 6, "per_round": 3, "rounds": 2}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run's folder, and what was printed on the way."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "small.yaml"
    path.write_text(render(small_recipe(folder, federation=TWO_ROUNDS)), encoding="utf-8")
    return folder / "runs" / "small", invoke("run", path)


def test_run_tells_facts_rounds_and_outcome(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("fedfm ")
    assert lines[0].rstrip().endswith("small")
    rounds = [line for line in lines if line.startswith("round ")]
    assert [line.split()[1] for line in rounds] == ["1/2", "2/2"]
    assert all("accuracy" in line and "clients 3/3" in line for line in rounds)
    assert f"in {folder}/: adapter/  report.html  summary.json  metrics.jsonl" in result.stdout
    assert (folder / "adapter" / "README.md").is_file()
    assert "\x1b" not in result.output
    assert "\r" not in result.output


def test_resume_goes_on_and_prints_json(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    result = invoke("resume", folder, "federation.rounds=3", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["folder"], summary["rounds"], summary["status"]) == (str(folder), 3, "completed")
    assert "round 3/3" in result.stderr


def test_report_writes_the_page_again(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    (folder / "report.html").unlink()
    assert f"Wrote {folder / 'report.html'}." in invoke("report", folder).output
    assert (folder / "report.html").is_file()
    assert json.loads(invoke("report", folder, "--json").stdout) == {"report": str(folder / "report.html")}


def test_export_merges(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    assert json.loads(invoke("export", folder, "--merge", "--json").stdout) == {"path": str(folder / "model")}
    assert (folder / "model" / "config.json").is_file()
    assert f"Wrote {folder / 'adapter'}." in invoke("export", folder).output


def test_a_run_is_not_overwritten(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    result = invoke("run", folder / "recipe.yaml")
    assert result.exit_code == 2
    assert str(folder) in result.stderr


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    for command in ("report", "export", "resume"):
        result = invoke(command, tmp_path)
        assert result.exit_code == 2
        assert str(tmp_path) in result.stderr
