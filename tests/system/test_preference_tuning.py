"""Whole runs of DPO: what is preferred is learnt, compared with the model before round 1 in every round."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedfm import load_recipe, resume, run
from fedfm.errors import RecipeError
from fedfm.server import plan
from fedfm.server.runs.inference import evaluate
from tests.small import small_recipe

ANSWERS = ("Certainly.", "no idea")


def write_pairs(path: Path, count: int, *, start: int = 0) -> None:
    rows = [
        {"prompt": f"Is it case {number}?", "chosen": ANSWERS[0], "rejected": ANSWERS[1]}
        for number in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe_of(folder: Path, **changes: Any) -> dict[str, Any]:
    recipe = small_recipe(folder)
    write_pairs(folder / "train.jsonl", 48)
    write_pairs(folder / "test.jsonl", 16, start=100)
    return {
        **recipe,
        "model": {"path": "builtin:tiny-llama"},
        "task": {"kind": "preference"},
        "data": {**recipe["data"], "max_length": 64},
        "federation": {"clients": 4, "per_round": 4, "rounds": 3},
        "local": {"batch_size": 6, "learning_rate": 0.02},
        **changes,
    }


def test_it_learns_what_is_preferred(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_of(tmp_path))
    assert plan(recipe, timed=True)["training"].startswith("4 clients at a time")
    finished = run(recipe)
    summary = finished.summary
    assert summary["initial"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert summary["initial"]["preference_accuracy"] == 0.5
    assert summary["final"]["preference_accuracy"] == 1
    assert summary["final"]["margin"] > 0
    assert summary["final"]["loss"] < summary["initial"]["loss"]
    assert summary["reloaded"]["agrees"]
    again = evaluate(finished.path, str(tmp_path / "test.jsonl"))  # which loads the model before round 1 for it
    assert again["metrics"] == pytest.approx({name: summary["final"][name] for name in again["metrics"]}, abs=1e-5)


def test_the_reference_is_the_model_before_round_1_where_the_weights_change_and_a_run_is_continued(
    tmp_path: Path,
) -> None:
    """FLoRA adds each round's update to the frozen weights. Clients train alone in one run, in passes in the other."""
    local = {"batch_size": 6, "learning_rate": 0.02, "max_steps": 2, "lr_scheduler_type": "constant"}
    changes = {"aggregate": {"rule": "flora"}, "local": local}
    found = []
    for name, stack, rounds in (("whole", "off", [2]), ("parts", "auto", [1, 2])):
        federation = {"clients": 4, "per_round": 2, "rounds": rounds[0]}
        recipe = recipe_of(tmp_path, name=name, federation=federation, runtime={"stack": stack}, **changes)
        finished = run(recipe)
        for more in rounds[1:]:
            finished = resume(finished.path, [f"federation.rounds={more}"])
        found.append(finished.summary["final"])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert found[0]["margin"] > 1e-3


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"task": {"kind": "instruct", "beta": 0.5}}, "task"),
        ({"audit": {"canaries": 10}}, "audit.canaries"),
        ({"proxy": {"kind": "offsite"}, "public": {"data": "builtin:pydoc"}}, "proxy.kind"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], key: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=key):
        load_recipe(recipe_of(tmp_path, **changes))
