from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedfm.cli.main import main
from fedfm.yaml_text import render
from tests.small import small_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(render(small_recipe(tmp_path)), encoding="utf-8")
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_check_tells_the_plan_and_trains_nothing(recipe: Path) -> None:
    result = invoke("check", recipe, "federation.rounds=7")
    assert result.exit_code == 0, result.output
    for fact in (
        "builtin:tiny-bert",
        "60 train + 30 test examples, 2 labels",
        "6 by iid",
        "7 of 3 clients each",
        "ε = ∞",
    ):
        assert fact in result.output
    assert f"fedfm run {recipe} federation.rounds=7" in result.output
    assert not (recipe.parent / "runs").exists()


def test_check_as_json(recipe: Path) -> None:
    planned = json.loads(invoke("check", recipe, "--json").stdout)
    assert planned["federation"] == {"clients": 6, "per_round": 3, "rounds": 4, "partition": "iid", "left_out": 0}


def test_data_shows_and_draws_the_split(recipe: Path, tmp_path: Path) -> None:
    picture = tmp_path / "split.svg"
    result = invoke("data", recipe, "data.client=site", "federation={per_round: 2}", "--plot", picture)
    assert result.exit_code == 0, result.output
    assert "60 examples over 5 clients: 12 each" in result.output
    assert f"Wrote {picture}" in result.output
    assert "<svg" in picture.read_text(encoding="utf-8")


def test_data_as_json(recipe: Path) -> None:
    clients = json.loads(invoke("data", recipe, "--json").stdout)
    assert sum(client["examples"] for client in clients) == 60
    assert len(clients) == 6
