from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedfm.cli import recipes
from fedfm.cli.main import main
from fedfm.cli.output import console
from fedfm.recipe import load_recipe
from fedfm.recipe.presets import PRESETS, preset_title
from fedfm.yaml_text import parse


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_ls() -> None:
    lines = invoke("ls").output.splitlines()
    assert [line.split()[0] for line in lines[: len(PRESETS)]] == list(PRESETS)
    assert all(preset_title(name) in line for name, line in zip(PRESETS, lines, strict=False))
    assert [recipe["name"] for recipe in json.loads(invoke("ls", "--json").stdout)] == list(PRESETS)


def test_cp(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    assert f"fedfm check {target}" in invoke("cp", "quick", target).output
    assert load_recipe(target) == load_recipe("quick")
    refused = invoke("cp", "quick", target)
    assert refused.exit_code == 2
    assert "already exists" in refused.stderr
    assert json.loads(invoke("cp", "quick", tmp_path / "other.yaml", "--json").stdout) == {
        "file": str(tmp_path / "other.yaml")
    }


def test_show_is_a_recipe(tmp_path: Path) -> None:
    result = invoke("show", "quick", "local.learning_rate=1e-5", "tune.kind=ia3")
    assert result.exit_code == 0
    assert load_recipe(parse(result.output)) == load_recipe("quick", ["local.learning_rate=1e-5", "tune.kind=ia3"])
    assert load_recipe(json.loads(invoke("show", "quick", "--json").stdout)) == load_recipe("quick")


def test_show_has_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(recipes, "console", console)
    assert "\x1b[" in invoke("show", "quick").output


def test_show_tells_all_problems() -> None:
    result = invoke("show", "quick", "local.epochs=0", "tun.r=3")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: quick: 2 problems\n"
        "  local.epochs: must be ≥ 1 (got 0)\n"
        '  tun: unknown key — did you mean `tune`? (got {"r": 3})\n'
    )
