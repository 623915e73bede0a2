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
    overview = json.loads(invoke("data", recipe, "--json").stdout)
    clients, (first, *_) = overview["clients"], overview["examples"]
    assert sum(client["examples"] for client in clients) == 60
    assert len(clients) == 6
    assert "".join(token["text"] for token in first["tokens"]) == "<s>good thing 0</s>"
    assert not any(token["learned"] for token in first["tokens"])
    assert (first["label"], first["cut"], overview["split"]) == ("1", 0, "train")
    assert first["client"] in {client["id"] for client in clients}


def test_data_marks_what_is_learnt_and_what_is_cut(tmp_path: Path) -> None:
    said = [{"prompt": "Say é", "response": "é" * number} for number in (3, 60)]
    (tmp_path / "said.json").write_text(json.dumps(said))
    recipe = small_recipe(tmp_path, model={"path": "builtin:tiny-llama"}, task={"kind": "instruct"})
    recipe["data"] |= {"train": str(tmp_path / "said.json"), "test": str(tmp_path / "said.json"), "max_length": 40}
    recipe["federation"] = {"clients": 2, "per_round": 2, "rounds": 1}
    (tmp_path / "recipe.yaml").write_text(render(recipe))
    result = invoke("data", tmp_path / "recipe.yaml")
    assert result.exit_code == 0, result.output
    assert "Assistant:\n«ééé</s>»\n" in result.output
    assert "40 tokens, 15 of them learnt, 106 tokens cut off" in result.output
    assert "é\ufffd» ✂" in result.output
    assert "warning: data.train" in result.output
    learned = [
        "".join(token["text"] for token in example["tokens"] if token["learned"])
        for example in json.loads(invoke("data", tmp_path / "recipe.yaml", "--json").stdout)["examples"]
    ]
    assert learned[0] == "ééé</s>"


def test_data_shows_an_image_and_its_class(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, model={"path": "builtin:tiny-vit"}, task={"kind": "image-classification"})
    recipe["data"] = {"train": "builtin:digits", "test": "builtin:digits", "limit": 60}
    (tmp_path / "recipe.yaml").write_text(render(recipe))
    assert "train example 1: 3 × 8 × 8 values" in invoke("data", tmp_path / "recipe.yaml").output
