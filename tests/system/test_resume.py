"""A run that is killed and resumed equals one that was never interrupted, bit for bit (fault T05)."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from fedfm import FedfmError, Listener, Run, export, resume, run
from fedfm.params import digest, load
from fedfm.server.rounds import checkpoints
from tests.alike import METHODS
from tests.events import irregular
from tests.small import small_recipe
from tests.started import finish


class Killer(Listener):
    """Kills its process in one round: in training, or once the round is saved."""

    def __init__(self, point: str, number: int) -> None:
        self.point, self.number = point, number

    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        if (self.point, self.number, done) == ("training", round, 2):
            kill()

    def on_round(self, record: dict[str, Any]) -> None:
        if (self.point, self.number) == ("saved", record["round"]):
            kill()


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killing(function: Callable[..., Any], when: Callable[[Path, Any], bool]) -> Callable[..., Any]:
    """A function that kills its process in place of some calls."""
    return lambda *arguments: kill() if when(*arguments) else function(*arguments)


def run_and_be_killed(recipe: Path, point: str, number: int) -> None:
    """Runs a recipe in a process that kills itself at a point of a round."""
    name = f"{number:04d}"
    if point == "writing":
        checkpoints.tensors.save = killing(
            checkpoints.tensors.save,
            lambda params, path: path.name == "server.safetensors" and name in str(path),
        )
    if point == "renamed":
        checkpoints.replace_text = killing(checkpoints.replace_text, lambda path, text: name in text)
    run(recipe, listeners=[Killer(point, number)])


KEPT = ("final", "model_round", "initial", "best", "bytes", "clients", "baselines", "clients_spread", "rounds")


def write_recipe(folder: Path, name: str, algorithm: dict[str, Any], **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**small_recipe(folder), "name": name, "algorithm": algorithm, **more}))
    return path


def kill_at(recipe: Path, point: str, number: int) -> None:
    done = finish(run_and_be_killed, recipe, point, number)
    assert done.code == -signal.SIGKILL, done.errors


def outcome(finished: Run) -> dict[str, Any]:
    """Everything that must be equal: the adapter, the model's figures, the ledger, the metrics but for time."""
    summary = {key: finished.summary[key] for key in KEPT}
    metrics: pd.DataFrame = finished.metrics.drop(columns="seconds")
    wire = [json.loads(line) for line in finished.folder.wire.read_text().splitlines()]
    return {
        "adapter": digest(load(finished.folder.adapter / "adapter_model.safetensors")),
        "summary": summary,
        "metrics": metrics.to_json(orient="records"),
        "wire": wire,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [{"name": "fedavg"}, {"name": "fedadam", "server_lr": 0.01}],
    ids=lambda algorithm: str(algorithm["name"]),
)
def test_t05_killed_and_resumed_equals_uninterrupted(tmp_path: Path, algorithm: dict[str, Any]) -> None:
    straight = outcome(run(write_recipe(tmp_path, "straight", algorithm)))
    for point, number in [("training", 2), ("writing", 3), ("renamed", 4), ("saved", 1)]:
        recipe = write_recipe(tmp_path, f"killed-{point}", algorithm)
        kill_at(recipe, point, number)
        assert outcome(resume(tmp_path / "runs" / f"killed-{point}")) == straight, (point, number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "point"),
    [("scaffold", "writing"), ("gossip", "training"), ("centred clipping under attack", "writing")],
)
def test_what_clients_keep_is_resumed(method: str, point: str, tmp_path: Path) -> None:
    """The state that clients had written in the round that was lost is written again, bit for bit."""
    more = {"algorithm": {"name": "fedavg"}, **METHODS[method]}
    more["federation"] = {"clients": 6, "per_round": 3, "rounds": 4, **more.get("federation", {})}
    straight = run(write_recipe(tmp_path, "straight", **more))
    kill_at(write_recipe(tmp_path, "killed", **more), point, 3)
    resumed = resume(tmp_path / "runs" / "killed")
    assert outcome(resumed) == outcome(straight)
    assert kept(resumed) == kept(straight) != {}


def kept(finished: Run) -> dict[str, str]:
    """Digests of the files of clients' state."""
    files = sorted(finished.folder.client_state.rglob("*.safetensors"))
    return {str(path.relative_to(finished.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_killed_between_checkpoints_and_with_early_stopping(tmp_path: Path) -> None:
    more = {
        "checkpoint": {"every": 3, "keep": 1},
        "evaluate": {"patience": 3, "metrics": ["accuracy"]},
        "federation": {"clients": 6, "per_round": 3, "rounds": 40},
        "local": {"batch_size": 5, "learning_rate": 1e-9},  # accuracy cannot change: the first round stays the best
        "data": {**small_recipe(tmp_path)["data"], "validation": 0.2},
    }
    straight = outcome(run(write_recipe(tmp_path, "straight", {"name": "fedavgm"}, **more)))
    assert straight["summary"]["rounds"] == 4
    assert straight["summary"]["model_round"] == 1
    kill_at(write_recipe(tmp_path, "killed", {"name": "fedavgm"}, **more), "training", 4)
    assert (tmp_path / "runs" / "killed" / "LATEST").read_text() == "round-0003\n"
    resumed = resume(tmp_path / "runs" / "killed")
    assert outcome(resumed) == straight
    adapter = digest(load(resumed.folder.adapter / "adapter_model.safetensors"))
    export(resumed.path)
    assert digest(load(resumed.folder.adapter / "adapter_model.safetensors")) == adapter


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_starts_anew(tmp_path: Path) -> None:
    straight = outcome(run(write_recipe(tmp_path, "straight", {"name": "fedavg"})))
    kill_at(write_recipe(tmp_path, "killed", {"name": "fedavg"}), "writing", 0)
    assert not (tmp_path / "runs" / "killed" / "LATEST").exists()
    assert outcome(resume(tmp_path / "runs" / "killed")) == straight


@pytest.mark.slow
def test_a_finished_run_goes_on_for_more_rounds(tmp_path: Path) -> None:
    constant = {"local": {"batch_size": 5, "learning_rate": 0.01, "lr_scheduler_type": "constant"}}
    straight = outcome(run(write_recipe(tmp_path, "straight", {"name": "fedadam"}, **constant)))
    short = {"federation": {**small_recipe(tmp_path)["federation"], "rounds": 2}}
    run(write_recipe(tmp_path, "short", {"name": "fedadam"}, **constant, **short))
    longer = resume(tmp_path / "runs" / "short", ["federation.rounds=4"])
    assert outcome(longer) == straight
    assert [event["kind"] for event in irregular(longer.events)] == ["resume"]


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    return run(write_recipe(tmp_path, "done", {"name": "fedavg"}))


@pytest.mark.slow
def test_a_run_whose_recipe_was_edited_is_not_resumed(finished: Run) -> None:
    text = finished.folder.recipe.read_text()
    finished.folder.recipe.write_text(text.replace("learning_rate: 0.01", "learning_rate: 0.5"))
    with pytest.raises(FedfmError, match=r"not the run that was begun: recipe\.yaml was edited"):
        resume(finished.path, ["federation.rounds=5"])


@pytest.mark.slow
def test_a_run_whose_data_changed_is_not_resumed(finished: Run, tmp_path: Path) -> None:
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"text": "good", "label": 1, "site": "a"}\n')
    with pytest.raises(FedfmError, match=r"the content of data\.train has changed"):
        resume(finished.path, ["federation.rounds=5"])


@pytest.mark.slow
def test_a_run_cannot_be_cut_short_afterwards(finished: Run) -> None:
    with pytest.raises(FedfmError, match="all 4 rounds are played"):
        resume(finished.path, ["federation.rounds=2"])


@pytest.mark.slow
def test_other_versions_are_said(finished: Run) -> None:
    environment = json.loads(finished.folder.environment.read_text())
    environment["versions"]["torch"] = "2.6.0"
    finished.folder.environment.write_text(json.dumps(environment))
    heard: list[str] = []

    class Ear(Listener):
        def on_warning(self, text: str) -> None:
            heard.append(text)

    resume(finished.path, ["federation.rounds=5"], listeners=[Ear()])
    assert "other versions: torch 2.6.0 → " in heard[0]


@pytest.mark.slow
def test_a_model_merged_earlier_does_not_outlive_more_rounds(finished: Run) -> None:
    merged = export(finished.path, merge=True)
    assert merged.is_dir()
    resume(finished.path, ["federation.rounds=5"])
    assert not merged.exists()


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2], ids=["asked once", "asked twice"])
def test_stopped_while_finishing_is_interrupted_and_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    from fedfm.server.runs import start as runs

    straight = outcome(run(write_recipe(tmp_path, "straight", {"name": "fedavg"})))
    measure = runs.baselines

    def interrupted(*arguments: Any) -> Any:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return measure(*arguments)

    monkeypatch.setattr(runs, "baselines", interrupted)
    with pytest.raises(FedfmError, match="fedfm resume") as raised:
        run(write_recipe(tmp_path, "stopped", {"name": "fedavg"}))
    assert raised.value.exit_code == 130  # type: ignore[attr-defined]
    monkeypatch.undo()
    stopped = tmp_path / "runs" / "stopped"
    assert json.loads((stopped / "summary.json").read_text())["status"] == "interrupted"
    assert outcome(resume(stopped)) == straight
