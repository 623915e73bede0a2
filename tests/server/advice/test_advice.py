"""Warnings of `fedfm check`: each where it is due, and none where the recipe is sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedfm.cli.main import main
from fedfm.recipe import load_recipe
from fedfm.server.advice import ADVICE, PlanFacts, advise
from fedfm.server.advice.timing import Timing, time_steps
from fedfm.server.advice.updates import smallest_stage
from fedfm.server.experiment.build import build_experiment
from fedfm.server.rounds.costs import CostBook
from fedfm.yaml_text import render
from tests.small import small_recipe

SOUND: dict[str, Any] = {"local": {"batch_size": 5, "learning_rate": 1e-3}}
SLOW, FAST = {"up": "1kbit", "down": "1kbit"}, {"up": "1Gbit", "down": "1Gbit"}
TIMED = Timing(seconds_a_step=1.0, moved_a_step=1e-3, steps=4)


def facts(folder: Path, timing: Timing | None = None, **changes: Any) -> PlanFacts:
    experiment = build_experiment(load_recipe(small_recipe(folder, **SOUND | changes)))
    return PlanFacts(experiment, CostBook(experiment), timing)


def told(found: PlanFacts) -> list[str]:
    return [name for name, function in ADVICE.items() if function(found) is not None]


def test_a_sound_recipe_has_none(tmp_path: Path) -> None:
    assert advise(facts(tmp_path, TIMED, runtime={"link": FAST})) == []


@pytest.mark.parametrize(
    ("name", "where", "said", "changes"),
    [
        ("small-model", "tune.kind", "below about 1.00 B parameters", {"tune": {"kind": "prompt"}}),
        ("learning-rate", "local.learning_rate", "0.05 is large for lora", {"local": {"learning_rate": 0.05}}),
        ("learning-rate", "local.learning_rate", "1e-06 is small for lora", {"local": {"learning_rate": 1e-6}}),
        ("rank", "tune.r", "rank 12 is more than the 10 examples", {"tune": {"kind": "lora", "r": 12}}),
        ("adaptivity", "algorithm.tau", "at most 0.002", {"algorithm": {"name": "fedadam", "tau": 0.5}}),
    ],
)
def test_a_warning_names_its_key_and_the_reason(
    tmp_path: Path, name: str, where: str, said: str, changes: dict[str, Any]
) -> None:
    found = facts(tmp_path, **changes)
    advice = ADVICE[name](found)
    assert advice is not None
    assert advice.where == where
    assert said in advice.text
    assert told(found) == [name]


def test_tau_is_compared_with_what_was_measured(tmp_path: Path) -> None:
    fedadam = {"algorithm": {"name": "fedadam", "tau": 0.01}}
    assert told(facts(tmp_path, **fedadam)) == []
    assert told(facts(tmp_path, Timing(1.0, 1e-5, 4), **fedadam)) == ["adaptivity"]
    sgd = {"local": {"optimizer": "sgd", "batch_size": 5}, "algorithm": {"name": "fedadam", "tau": 1e9}}
    assert told(facts(tmp_path, **sgd)) == [], "nothing bounds a step of sgd"


def test_a_slow_link_recommends_the_stage_that_shrinks_updates_most(tmp_path: Path) -> None:
    found = facts(tmp_path, TIMED, runtime={"link": SLOW})
    down, up = found.experiment.message_bytes("0", 1)
    assert found.link_seconds == pytest.approx(8 * (down + up) / 1000)
    assert found.compute_seconds == 2.0
    advice, smallest = ADVICE["updates"](found), smallest_stage(found)
    assert advice is not None
    assert smallest is not None
    assert f"kind: {smallest[0]}" in advice.text
    assert 0 < smallest[1] < 0.3
    assert told(facts(tmp_path, runtime={"link": SLOW})) == [], "the time of training is not known"
    encoded = facts(tmp_path, TIMED, runtime={"link": SLOW}, updates=[{"kind": "quantize"}])
    assert told(encoded) == []


def test_timed_steps_leave_the_tunable_as_it_was(tmp_path: Path) -> None:
    found = facts(tmp_path)
    experiment = found.experiment
    before = experiment.tunable.read()
    timing = time_steps(experiment)
    assert timing is not None
    assert timing.steps == 4
    assert 0 < timing.seconds_a_step < 5
    assert 0 < timing.moved_a_step <= 1.001e-3, "a step of AdamW moves a value by at most the learning rate"
    assert all(before[name].equal(value) for name, value in experiment.tunable.read().items())


def test_check_prints_memory_time_and_warnings(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(render(small_recipe(tmp_path, runtime={"link": SLOW})), encoding="utf-8")
    result = CliRunner().invoke(main, ["check", str(path), "--time", "tune.r=12"])
    assert result.exit_code == 0, result.output
    assert "of training, " in result.output
    assert "for training at a client" in result.output
    assert "warning: tune.r: rank 12 is more than" in result.output
    assert "warning: updates: the messages" in result.output
    planned = json.loads(CliRunner().invoke(main, ["check", str(path), "--json"]).stdout)
    assert planned["time"] is None
    assert planned["memory"] > 0
    assert planned["advice"] == []
