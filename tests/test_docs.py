"""The documentation is true: recipes validate, Python runs, commands parse, files exist, every key is explained."""

from __future__ import annotations

import re
import runpy
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedfm.cli.main import main
from fedfm.recipe import load_recipe
from fedfm.recipe.fields import all_keys
from fedfm.recipe.schema import Recipe
from fedfm.settings import Settings
from fedfm.sites.policy import Policy
from fedfm.sites.site_config import SiteData
from fedfm.yaml_text import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
ENOUGH = {"name": "page", "model": {"path": "builtin:tiny-bert"}, "task": {"kind": "text-classification"}}


def blocks(language: str) -> list[Any]:
    """The fenced blocks of one language on all pages, each with its page and line for the test's name."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match.group(1), id=f"{page.stem}:{line}"))
    return found


@pytest.mark.parametrize("block", blocks("yaml"))
def test_recipes_are_valid(block: str) -> None:
    values = parse(block)
    load_recipe({**ENOUGH, "data": {"train": "train.csv", "test": 0.2}, **values})


@pytest.mark.parametrize("block", blocks("bash"))
def test_commands_exist(block: str) -> None:
    lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", "").splitlines()]
    for command, *arguments in (line[1:] for line in lines if line[:1] == ["fedfm"]):
        assert command in main.commands
        main.commands[command].make_context(command, arguments, resilient_parsing=False).close()


def test_files_of_the_source_that_pages_name_exist() -> None:
    places = [ROOT, ROOT / "src" / "fedfm"]
    named = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(r"(?<![\w/.])((?:\w+/)+\w+\.py)\b(?!\.)", page.read_text(encoding="utf-8"))
        if "NAME" not in name and "fedadagrad" not in name
    }
    assert len(named) > 30
    assert sorted(each for each in named if not any((place / each[1]).is_file() for place in places)) == []


def test_keys_of_the_recipe_that_pages_name_exist() -> None:
    known = {key.where.replace("[]", "") for key in all_keys(Recipe)}
    groups = "|".join(sorted({key.group.split(".")[0].removesuffix("[]") for key in all_keys(Recipe)} - {""}))
    named = {
        (page.name, key)
        for page in PAGES
        for key in re.findall(rf"`((?:{groups})\.[a-z_.]+)[:=`]", page.read_text(encoding="utf-8"))
        if key.rpartition(".")[2] not in {"json", "jsonl", "safetensors", "yaml"}
        and key != "model.digest"  # of `fedfm check --json`
    }
    assert len(named) > 100
    assert sorted(each for each in named if each[1] not in known) == []


@pytest.mark.parametrize("settings", [Policy, SiteData])
def test_every_key_of_a_site_is_in_a_table(settings: type[Settings]) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    rows = {key for row in re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert settings.model_fields.keys() - rows == set()


def test_the_path_of_a_round_names_what_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [
        f"{file} {name}"
        for file, names in re.findall(r"^    ([a-z_/]+\.py) +([\w., ]+?)  ", page, re.MULTILINE)
        for name in names.split(", ")
        if f"def {name.rpartition('.')[2]}(" not in (ROOT / "src" / "fedfm" / file).read_text(encoding="utf-8")
    ]
    assert missing == []


@pytest.mark.parametrize("unit", sorted((ROOT / "deploy").glob("*.service")), ids=lambda unit: unit.name)
def test_units_start_commands_that_exist(unit: Path) -> None:
    (line,) = [line for line in unit.read_text(encoding="utf-8").splitlines() if line.startswith("ExecStart=")]
    command, *arguments = shlex.split(line.partition("/bin/fedfm ")[2].rstrip("'"))
    main.commands[command].make_context(command, arguments, resilient_parsing=False).close()


def test_the_image_is_made_of_what_is_there() -> None:
    text = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    (extras,) = re.findall(r"'/fedfm\[(.*)\]'", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "runs/demo" in block:
        pytest.skip("needs the demo's run; the round trip through plain peft is tested with the server")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "page", "exec"), {})  # noqa: S102 - our own pages


def test_every_key_is_in_the_reference() -> None:
    extension = runpy.run_path(str(ROOT / "tools" / "recipe_reference.py"))
    page = extension["expanded"]((ROOT / "docs" / "recipe.md").read_text(encoding="utf-8"))
    assert extension["MARKER"] not in page
    sections = {part.split("\n")[0].strip("`"): part for part in re.split(r"^### ", page, flags=re.MULTILINE)}
    missing = [
        key
        for key in all_keys(Recipe)
        if f"| `{key.name}` |" not in sections[key.group or "Top level"]
        and not {key.where, f"{key.where}[]"} & sections.keys()
    ]
    assert missing == []
