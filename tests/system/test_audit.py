"""Whole runs, audited: canaries leak without noise and not with it; what cannot be audited is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedfm import run
from fedfm.cli.main import main
from fedfm.recipe import load_recipe
from fedfm.server import resume
from tests.small import small_recipe, write_rows

LANGUAGE: dict[str, Any] = {
    "model": {"path": "builtin:tiny-llama"},
    "task": {"kind": "causal-lm"},
    "federation": {"clients": 10, "per_round": 10, "rounds": 6},
    "tune": {"kind": "full"},
    "local": {"batch_size": 8, "learning_rate": 0.01, "epochs": 4},
    "audit": {"canaries": 20, "repeats": 4, "references": 200},
    "evaluate": {"every": 100},
    "runtime": {"kind": "local", "processes": 1},
}


def audited(folder: Path) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["audit", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


@pytest.mark.parametrize("noise", [None, 5.0])
def test_p8_canaries_are_exposed_without_noise_and_not_with_it(tmp_path: Path, noise: float | None) -> None:
    recipe = small_recipe(tmp_path, **LANGUAGE)
    write_rows(tmp_path / "train.jsonl", 120)
    if noise is not None:
        recipe["privacy"] = {"kind": "central", "noise_multiplier": noise, "delta": 1e-2}
    finished = run(load_recipe(recipe))
    found = audited(finished.path)
    exposure, bound = found["measured"]["exposure"], found["measured"]["one_run"]
    if noise is None:
        assert exposure["mean"] > 5
        assert exposure["p_value"] < 1e-4
        assert bound["epsilon_lower"] > 0.1
        assert found["measured"]["membership"]["reference"]["auc"] > 0.5
    else:
        assert exposure["mean"] < 4.5  # by chance 1.4, with a standard deviation of about 0.4
        assert bound["epsilon_lower"] < bound["promised"]
        assert bound["refuted"] is False
    page, card = finished.path / "report.html", finished.path / "model" / "README.md"
    assert "mean exposure" in page.read_text(encoding="utf-8")
    said = card.read_text(encoding="utf-8")
    assert "mean exposure" in said
    assert "do not deliver its model" in said
    assert "the worst" not in said  # no client is named
    assert any("do not deliver its model" in text for text in finished.summary["warnings"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    recipe = small_recipe(folder, federation={"clients": 6, "per_round": 3, "rounds": 1})
    return run(load_recipe(recipe)).path


def refused(folder: Path, code: int) -> str:
    result = CliRunner().invoke(main, ["audit", str(folder)])
    assert result.exit_code == code, result.output
    assert "This error is unexpected" not in result.output
    return " ".join(result.output.split())


def test_a_classifier_is_audited_without_canaries_and_its_audit_ends_with_more_rounds(finished: Path) -> None:
    before = (finished / "adapter" / "adapter_model.safetensors").read_bytes()
    found = audited(finished)
    assert found["measured"].keys() == {"membership", "inversion", "disclosure"}
    assert found["measured"]["membership"]["members"] == 30  # of the three clients that took part
    assert found["measured"]["inversion"]["sent"]["labels"] == 1.0
    assert set(found["not_measured"]) == {"exposure", "one_run"}
    assert (finished / "adapter" / "adapter_model.safetensors").read_bytes() == before
    text = CliRunner().invoke(main, ["audit", str(finished), "--examples", "15"]).output
    assert "exposure of canaries: not measured: no canaries were planted" in text
    assert json.loads((finished / "audit.json").read_text())["measured"]["membership"]["members"] == 15
    resume(finished, ["federation.rounds=2"])
    assert not (finished / "audit.json").exists()


def test_what_cannot_be_audited_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "audit.json").write_text("{}")
    assert "audit.json is damaged" in " ".join(CliRunner().invoke(main, ["report", str(folder)]).output.split())
    (folder / "audit.json").unlink()
    (folder / "summary.json").write_text("[]")
    assert "summary.json is damaged" in refused(folder, 3)
    shutil.rmtree(folder / "checkpoints")
    (folder / "LATEST").unlink()
    assert "no saved round to load" in refused(folder, 2)
    assert "no such folder" in refused(tmp_path / "nowhere", 2)


def test_other_data_and_data_at_sites_are_refused(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    recipe = (folder / "recipe.yaml").read_text()
    train = tmp_path / "other.jsonl"
    write_rows(train, 60, start=7)
    source = str(finished.parents[1] / "train.jsonl")
    (folder / "recipe.yaml").write_text(recipe.replace(source, str(train)))
    assert "the content of data.train has changed since the run" in refused(folder, 2)
    (folder / "recipe.yaml").write_text(recipe.replace("test.jsonl", "gone.jsonl"))
    assert "gone.jsonl" in refused(folder, 2)
    sites = json.dumps({"name": "s", "model": {"path": "builtin:tiny-bert"}, "task": {"kind": "text-classification"},
                        "data": {"train": "sites", "test": source}, "runtime": {"kind": "flower"}})  # fmt: skip
    (folder / "recipe.yaml").write_text(sites)
    assert "at its sites" in refused(folder, 2)
