"""P7, T22, T23: ledger, cohorts and budget of private runs, also of runs that were killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from fedfm import Run, resume, run
from fedfm.cli.main import main
from fedfm.errors import RecipeError
from fedfm.privacy import Ledger, Promise
from fedfm.privacy.clipped_sum import ClippedSum
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.server.rounds.privacy_guard import PrivacyGuard
from fedfm.wire import from_bytes
from tests.small import small_recipe

PRIVATE = {"kind": "central", "noise_multiplier": 1.0, "delta": 1e-2, "clip": 0.5, "accountant": "rdp"}


class Killed(BaseException):
    """Stands for the end of the process."""


def recipe(folder: Path, rounds: int = 3, **privacy: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return small_recipe(
        folder,
        federation={"clients": 6, "per_round": 3, "rounds": rounds, "sampling": "poisson"},
        local={"batch_size": 5, "learning_rate": 0.01, "max_steps": 1},
        aggregate={"rule": "ffa"},
        runtime={"kind": "local", "processes": 1},
        evaluate={"every": 10},
        privacy=PRIVATE | privacy,
    )


def ledger(folder: Path) -> Ledger:
    return Ledger.of(jsonl.records(RunFolder(folder).privacy))


def delivered(folder: Path) -> dict[str, torch.Tensor]:
    tensors, _ = from_bytes((folder / "adapter" / "adapter_model.safetensors").read_bytes())
    return {name: tensors[name].clone() for name in tensors}


def test_p7_t22_a_killed_run_repeats_its_cohort_with_fresh_noise_and_pays_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = recipe(tmp_path, clip="adaptive", clip_count_noise=2.0)
    drawn: list[int] = []
    whole = ClippedSum.result

    def dying(release: ClippedSum) -> Any:
        found = whole(release)
        drawn.append(release._round)
        if len(drawn) == 2:
            raise Killed  # after the noise of round 2, before anything of it is saved
        return found

    monkeypatch.setattr(ClippedSum, "result", dying)
    with pytest.raises(Killed):
        run(values)
    folder = tmp_path / "runs" / "small"
    before = ledger(folder)
    assert before.releases == {1: 1, 2: 1}
    with (folder / "privacy.jsonl").open("a") as lines:
        lines.write('{"kind": "rel')  # a line that was being written when the power failed
    summary = resume(folder).summary
    after = ledger(folder)
    assert drawn == [1, 2, 2, 3]
    assert after.releases == {1: 1, 2: 2, 3: 1}  # what was spent, and not less
    assert {n: after.cohorts[n] for n in (1, 2)} == before.cohorts
    asked = {
        line["round"]: line["clients"] for line in jsonl.records(folder / "wire.jsonl") if line["direction"] == "down"
    }
    assert all(sorted(asked.get(n, ())) == list(after.cohorts[n]) for n in (1, 2, 3))
    bounds = [line["clip"] for line in jsonl.records(folder / "privacy.jsonl") if line["kind"] == "release"]
    assert bounds[0] == 0.1
    assert bounds[1] == bounds[2] != bounds[0]  # from the checkpoint
    assert summary["privacy"]["releases"] == 4
    assert summary["privacy"]["epsilon"] == after.promise.epsilon({1: 1, 2: 2, 3: 1})  # type: ignore[union-attr]


def test_a_ledger_that_was_cut_is_noticed(tmp_path: Path) -> None:
    """Without its lines nobody knows what was spent."""
    promise = Promise("client", 1e-2, 1.0, 0.5, 3.0)
    lines: list[dict[str, Any]] = [
        {"kind": "promise", **promise.record()},
        {"kind": "release", "round": 1, "noise_multiplier": 1.0, "clip": 0.5},
    ]
    folder = RunFolder.create(tmp_path / "run")
    folder.write_text("privacy.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    experiment: Any = SimpleNamespace(recipe=None, promise=promise)
    guard = PrivacyGuard(experiment, folder)
    guard.check(1, {})
    with pytest.raises(RecipeError, match="lacks the release of round 2"):
        guard.check(2, {})


def test_t23_a_run_ends_before_the_round_that_would_exceed_its_budget(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(tmp_path, rounds=9, epsilon=4.0)))
    result = CliRunner().invoke(main, ["run", str(file)])
    assert result.exit_code == 6, result.output
    finished = Run(tmp_path / "runs" / "small")
    summary = finished.summary
    assert summary["status"] == "budget"
    promise, played = ledger(finished.path).promise, summary["rounds"]
    assert promise is not None
    assert 1 <= played < 9
    counts = dict.fromkeys(range(1, played + 1), 1)
    assert summary["privacy"]["epsilon"] == promise.epsilon(counts) <= 4.0 < promise.epsilon(counts | {played + 1: 1})
    assert (finished.path / "adapter" / "adapter_model.safetensors").is_file()
    assert "would exceed its privacy budget" in finished.path.joinpath("report.html").read_text()
    card = (finished.path / "adapter" / "README.md").read_text()
    assert "differential privacy, per client." in card
    assert "contributed" not in card
    with pytest.raises(RecipeError, match="would exceed the privacy budget"):
        resume(finished.path, ["federation.rounds=20"])


def test_two_runs_of_one_recipe_have_different_noise(tmp_path: Path) -> None:
    """Clients are drawn, and noise too, from the system's entropy; everything else follows the seed."""
    found = [delivered(run(recipe(tmp_path / name, rounds=1)).path) for name in ("one", "other")]
    trained = [name for name in found[0] if "lora_A" not in name]
    assert trained
    assert all(not torch.equal(found[0][name], found[1][name]) for name in trained)
    fixed = [name for name in found[0] if "lora_A" in name]
    assert all(torch.equal(found[0][name], found[1][name]) for name in fixed)


def test_t21_a_round_in_which_nobody_takes_part_moves_the_model_by_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfm.server.rounds.privacy_guard.drawn", lambda clients, rate: [])
    finished = run(recipe(tmp_path, rounds=1))
    assert finished.summary["privacy"]["releases"] == 1
    assert ledger(finished.path).cohorts == {1: ()}
    factors = {name: tensor for name, tensor in delivered(finished.path).items() if "lora_B" in name}
    assert factors
    assert all((tensor != 0).all() for tensor in factors.values())  # they begin at zero
