"""`fedfm evaluate` and `fedfm predict`: the model of a run on other data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import classification_report, confusion_matrix

from fedfm import evaluate, load_recipe, predict, run
from fedfm.cli.main import main
from tests.small import small_recipe

LABELS = ["0", "1"]


def fedfm(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inference")
    federation = {"clients": 3, "per_round": 3, "rounds": 2}
    return run(load_recipe(small_recipe(folder, federation=federation))).path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_on_the_test_set_it_is_the_runs_figure_by_class_too(finished: Path) -> None:
    test = finished.parent.parent / "test.jsonl"
    found = evaluate(finished, str(test))
    summary = json.loads((finished / "summary.json").read_text())
    assert found["metrics"] == summary["final"]
    assert found == json.loads((finished / "evaluation.json").read_text())
    predicted = predict(finished, str(test))
    truth = [str(row["label"]) for row in rows(test)]
    assert (predicted["predicted"] == truth).mean() == summary["final"]["accuracy"]
    assert found["confusion"] == confusion_matrix(truth, predicted["predicted"], labels=LABELS).tolist()
    oracle = classification_report(truth, predicted["predicted"], labels=LABELS, output_dict=True, zero_division=0)
    for row in found["classes"]:
        expected = oracle[row["label"]]
        assert row["examples"] == expected["support"]
        for name, theirs in (("recall", "recall"), ("precision", "precision"), ("f1", "f1-score")):
            assert (row[name] or 0.0) == pytest.approx(expected[theirs])


def test_rows_are_in_the_order_of_the_data_and_need_no_label(finished: Path, tmp_path: Path) -> None:
    test = finished.parent.parent / "test.jsonl"
    bare = tmp_path / "new.csv"
    pd.DataFrame([{"words": row["text"]} for row in rows(test)]).to_csv(bare, index=False)
    known, new = predict(finished, str(test)), predict(finished, str(bare), ["data.text=[words]"])
    assert list(new["row"]) == list(range(1, len(new) + 1))
    assert "label" in known
    assert "label" not in new
    pd.testing.assert_frame_equal(known.drop(columns="label"), new)
    assert (new[["probabilities.0", "probabilities.1"]].sum(axis=1) - 1).abs().max() < 1e-12


def test_predictions_are_written_as_lines_or_as_a_table(finished: Path, tmp_path: Path) -> None:
    test = finished.parent.parent / "test.jsonl"
    printed = fedfm("predict", finished, test)
    assert printed.exit_code == 0, printed.output
    records = [json.loads(line) for line in printed.output.splitlines()]
    assert set(records[0]) == {"row", "label", "predicted", "probability", "probabilities"}
    assert json.loads(fedfm("predict", finished, test, "--json").output) == records
    for name in ("p.jsonl", "p.csv"):
        written = fedfm("predict", finished, test, "-o", tmp_path / name)
        assert written.output == f"Wrote {len(records)} rows to {tmp_path / name}.\n"
    assert rows(tmp_path / "p.jsonl") == records
    table = pd.read_csv(tmp_path / "p.csv", dtype={"predicted": str})
    assert list(table["predicted"]) == [record["predicted"] for record in records]
    assert list(table["probabilities.1"]) == pytest.approx([record["probabilities"]["1"] for record in records])
    refused = fedfm("predict", finished, test, "-o", tmp_path / "p.xlsx")
    assert refused.exit_code == 2
    assert ".jsonl or .csv" in refused.output


def test_figures_are_printed(finished: Path) -> None:
    test = finished.parent.parent / "test.jsonl"
    printed = fedfm("evaluate", finished, test)
    assert printed.output.startswith("30 examples: loss ")
    assert "most often predicted instead" in printed.output
    assert json.loads(fedfm("evaluate", finished, test, "--json").output)["examples"] == 30


def test_what_makes_another_model_is_refused(finished: Path) -> None:
    refused = fedfm("predict", finished, "builtin:pydoc", "tune.r=4")
    assert refused.exit_code == 2
    assert "tune.r: tune.r=4 would change the model" in refused.output


def test_a_language_model_is_measured_and_writes(tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path,
        model={"path": "builtin:tiny-llama"},
        task={"kind": "causal-lm"},
        federation={"clients": 2, "per_round": 2, "rounds": 1},
    )
    done = run(load_recipe(recipe))
    found = evaluate(done.path, str(tmp_path / "test.jsonl"))
    assert found["metrics"] == done.summary["final"]
    assert found["classes"] is None
    written = predict(done.path, str(tmp_path / "test.jsonl"), ["evaluate.generate.max_new_tokens=4"])
    assert list(written.columns[:3]) == ["row", "prompt", "generated"]
