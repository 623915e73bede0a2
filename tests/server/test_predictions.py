"""Means are over predictions: a text without a masked token contributes nothing to the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from fedfm import run
from fedfm.cli.main import main
from fedfm.errors import RecipeError
from fedfm.models.builtin import write_random_model
from fedfm.recipe import load_recipe
from fedfm.server import plan
from fedfm.server.rounds.totals import Totals
from tests.small import small_recipe


def masked_recipe(folder: Path, *, test: list[str], **changes: Any) -> dict[str, Any]:
    """Short texts of four clients, a text a step: in six of ten nothing is masked."""
    recipe = small_recipe(folder, task={"kind": "masked-lm"}, tune={"kind": "full"}, **changes)
    letters = "abcdefghij"
    for name, texts in (("train", [f"{one}{other}c" for one in letters for other in "xyz"]), ("test", test)):
        rows = [{"text": text, "site": f"site {number % 4}"} for number, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe["data"]["client"] = "site"
    recipe["federation"] = {"rounds": 1, "per_round": 4}
    recipe["local"] = {"batch_size": 1, "learning_rate": 1e-9}
    return recipe


def test_the_mean_of_a_round_is_over_predictions() -> None:
    totals = Totals()
    assert totals.loss is None
    totals.losses += [(2.0, 1), (5.0, 3)]
    assert totals.loss == (2.0 + 3 * 5.0) / 4


def test_training_and_test_loss_are_alike_before_anything_is_learnt(tmp_path: Path) -> None:
    finished = run(load_recipe(masked_recipe(tmp_path, test=["a longer text, of which some tokens are masked"] * 4)))
    losses = finished.metrics.set_index("split").loss
    assert losses["train"] == pytest.approx(losses["test"].iloc[-1], rel=0.2)
    assert [finished.summary["clients"][key] for key in ("contributed", "failed", "refused")] == [4, 0, 0]


def test_a_test_set_without_predictions_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(masked_recipe(tmp_path, test=["a"])))
    for verb in ("check", "run"):
        result = CliRunner().invoke(main, [verb, str(file)])
        assert result.exit_code == 3, result.output
        assert "data.test: nothing is predicted in its 1 examples: masked-lm masked none" in result.output
    assert not (tmp_path / "runs").exists()


def test_a_client_without_predictions_is_not_counted_as_measured(tmp_path: Path) -> None:
    finished = run(load_recipe(masked_recipe(tmp_path, test=["a longer text, some of it masked", "b", "c", "d"])))
    measured = finished.metrics.query("split == 'client'")
    left_out = {event["client"] for event in finished.events if event["kind"] == "not evaluated"}
    assert set(measured.client) | left_out == {f"site {number}" for number in range(4)}
    assert left_out
    assert measured.loss.notna().all()
    assert finished.summary["clients_spread"]["clients"] == len(measured)


def test_a_model_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    write_random_model("tiny-bert", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    recipe = masked_recipe(tmp_path, test=["a text"], model={"path": str(tmp_path / "model")})
    with pytest.raises(RecipeError, match=r"model\.path: the tokenizer has no mask token"):
        plan(load_recipe(recipe))
