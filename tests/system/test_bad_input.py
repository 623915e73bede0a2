"""Bad input: each case gives one clear message and its exit code, and leaves nothing half-written."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from fedfm.cli.main import main
from fedfm.clients import worker
from fedfm.params import digest, load, save
from tests.events import irregular
from tests.machines import Process, wait
from tests.small import small_recipe

Change = Callable[[dict[str, Any], Path], None]


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def rows(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def unknown_label(recipe: dict[str, Any], folder: Path) -> None:
    recipe["data"]["test"] = rows(folder / "odd.jsonl", {"text": "good", "label": 1}, {"text": "so so", "label": 2})


def empty_column(recipe: dict[str, Any], folder: Path) -> None:
    recipe["data"]["train"] = rows(folder / "holes.jsonl", {"text": "good", "label": 1}, {"text": "", "label": 0})


def unknown_family(recipe: dict[str, Any], folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    save({"weight": torch.zeros(1)}, folder / "model" / "model.safetensors")
    recipe["model"]["path"] = str(folder / "model")


def put(path: str, value: Any) -> Change:
    """Sets one key of the recipe."""

    def change(recipe: dict[str, Any], folder: Path) -> None:
        *groups, key = path.split(".")
        for group in groups:
            recipe = recipe.setdefault(group, {})
        recipe[key] = value

    return change


BAD: dict[str, tuple[Change, int, list[str]]] = {
    "unknown key": (put("local.learning_rat", 0.1), 2, ["local.learning_rat", "did you mean `learning_rate`"]),
    "unknown group": (put("privcy", {}), 2, ["privcy", "did you mean `privacy`"]),
    "wrong type": (put("federation.rounds", "many"), 2, ["federation.rounds", "many"]),
    "missing file": (
        put("data.train", "nowhere/train.jsonl"),
        2,
        ["data.train", "no such file", "nowhere/train.jsonl"],
    ),
    "missing column": (put("data.text", ["review"]), 2, ["data.text", "no column `review`", "text, label, site"]),
    "empty column": (empty_column, 3, ["data.text", "`text` is blank", "row 2"]),
    "labels that train lacks": (unknown_label, 3, ["data.label", "'2'", "row 2", "not one of the classes: 0, 1"]),
    "zero clients": (put("federation.clients", 0), 2, ["federation.clients"]),
    "more per round than clients": (put("federation.per_round", 7), 2, ["federation.per_round", "7", "6"]),
    "a client without data": (
        put("federation.clients", 61),
        2,
        ["federation.clients", "1 clients would get no example"],
    ),
    "unknown family": (unknown_family, 2, ["model.path", "nonesuch"]),
    "unknown builtin": (put("model.path", "builtin:tiny-brt"), 2, ["model.path", "builtin:tiny-bert"]),
    "a tunable that matches nothing": (
        put("tune", {"kind": "lora", "target_modules": ["q_proj"]}),
        2,
        ["tune.target_modules", "query"],
    ),
    "a hub model offline": (put("model.path", "somebody/some-model"), 2, ["model.path", "allow_network"]),
    "not there yet": (put("report_to", ["wandb"]), 2, ["report_to[0]", "not available in this version"]),
    "nothing to evaluate on": (put("data.test", None), 2, ["data.test"]),
    "a device that is not there": (put("runtime.device", "cuda:7"), 2, ["runtime.device", "cuda:7"]),
}


@pytest.mark.parametrize("name", BAD)
def test_b03_b04_b11_bad_input_is_refused_in_words(tmp_path: Path, name: str) -> None:
    change, code, said = BAD[name]
    recipe = small_recipe(tmp_path)
    change(recipe, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = invoke("run", write(tmp_path, recipe))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    for words in said:
        assert words in result.output
    assert sorted(set(tmp_path.rglob("*")) - {tmp_path / "recipe.yaml"}) == before


def test_b01_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    put("federation.rounds", 0)(recipe, tmp_path)
    put("tune", {"kind": "lora", "rr": 8})(recipe, tmp_path)
    put("privcy", {})(recipe, tmp_path)
    result = invoke("run", write(tmp_path, recipe))
    assert result.exit_code == 2
    assert "3 problems" in result.output
    as_json = json.loads(invoke("run", write(tmp_path, recipe), "--json").output)
    assert sorted(problem["where"] for problem in as_json["problems"]) == ["federation.rounds", "privcy", "tune.rr"]


def test_an_existing_run_is_refused_and_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("kept")
    result = invoke("run", write(tmp_path, small_recipe(tmp_path)))
    assert result.exit_code == 2
    assert "fedfm resume" in result.output
    assert [path.name for path in folder.iterdir()] == ["recipe.yaml"]
    assert (folder / "recipe.yaml").read_text() == "kept"


def test_malformed_data_names_file_and_line(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"text": "cut off\n')
    result = invoke("run", write(tmp_path, recipe))
    assert result.exit_code == 3
    assert "train.jsonl:61" in result.output


def test_resume_refuses_what_would_make_it_another_run(tmp_path: Path) -> None:
    assert invoke("run", write(tmp_path, small_recipe(tmp_path))).exit_code == 0
    result = invoke("resume", tmp_path / "runs" / "small", "local.learning_rate=0.5")
    assert result.exit_code == 2
    assert "local.learning_rate: 0.01 → 0.5" in result.output


def test_resume_of_something_else_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in invoke("resume", tmp_path / "nothing").output
    result = invoke("resume", tmp_path)
    assert result.exit_code == 2
    assert "not a run's folder" in result.output


def start(folder: Path, recipe: dict[str, Any]) -> Process:
    return Process(folder, "run", "run", write(folder, recipe))


def start_an_endless_run(folder: Path) -> tuple[Process, Path]:
    """A run that has saved a round and has more to come than any machine plays in a test."""
    endless = {"clients": 6, "per_round": 3, "rounds": 1_000_000}
    process, run = start(folder, small_recipe(folder, federation=endless)), folder / "runs" / "small"
    latest = run / "LATEST"

    def has_played() -> bool:
        return latest.exists() and latest.read_text() > "round-0000\n"

    wait(lambda: has_played() or process.process.poll() is not None, "a round that was saved")
    assert process.process.poll() is None, process.words
    return process, run


@pytest.mark.slow
def test_t08_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    process, run = start_an_endless_run(tmp_path)
    process.process.send_signal(signal.SIGINT)
    process.ends(130)
    assert f"fedfm resume {run}" in process.words
    assert "Traceback" not in process.words
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["rounds"] >= 1
    number = int((run / "LATEST").read_text().strip().removeprefix("round-"))
    result = invoke("resume", run, f"federation.rounds={number + 1}")
    assert result.exit_code == 0, result.output
    assert json.loads((run / "summary.json").read_text())["status"] == "completed"


@pytest.mark.slow
def test_t24_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    process, run = start_an_endless_run(tmp_path)
    result = invoke("resume", run)
    process.process.kill()
    assert result.exit_code == 2
    assert f"in use by process {process.process.pid}" in result.output


@pytest.mark.slow
def test_t06_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fedfm.server.rounds.checkpoints as checkpoints

    save = checkpoints.tensors.save

    def full(params: Any, path: Path) -> None:
        if "round-0002" in str(path):
            raise OSError(28, "No space left on device")
        save(params, path)

    monkeypatch.setattr(checkpoints.tensors, "save", full)
    result = invoke("run", write(tmp_path, small_recipe(tmp_path)))
    run = tmp_path / "runs" / "small"
    assert result.exit_code == 5
    assert "No space left on device" in result.output
    assert f"fedfm resume {run}" in result.output
    assert (run / "LATEST").read_text() == "round-0001\n"
    assert not list(run.rglob("*.partial"))
    monkeypatch.undo()
    assert invoke("resume", run).exit_code == 0
    straight = invoke("run", tmp_path / "recipe.yaml", "name=straight")
    assert straight.exit_code == 0
    adapters = [
        load(tmp_path / "runs" / name / "adapter" / "adapter_model.safetensors") for name in ("small", "straight")
    ]
    assert digest(adapters[0]) == digest(adapters[1])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["checkpoints", "adapter"])
def test_a_folder_that_turns_read_only_keeps_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    import fedfm.records.disk as disk

    make = Path.mkdir

    def refused(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == (".round-0003.partial" if part == "checkpoints" else ".adapter.partial"):
            raise PermissionError(13, "Permission denied")
        make(path, *arguments, **options)

    monkeypatch.setattr(disk.Path, "mkdir", refused)
    result = invoke("run", write(tmp_path, small_recipe(tmp_path)))
    run = tmp_path / "runs" / "small"
    assert result.exit_code == 5, result.output
    assert "Permission denied" in result.output
    assert f"fedfm resume {run}" in result.output
    assert (run / "LATEST").read_text() == ("round-0002\n" if part == "checkpoints" else "round-0004\n")
    monkeypatch.undo()
    assert invoke("resume", run).exit_code == 0


def test_a_tracker_that_is_not_installed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = invoke("run", write(tmp_path, small_recipe(tmp_path, report_to=["tensorboard"])))
    assert result.exit_code == 2
    assert "make install EXTRAS=track" in result.output
    assert not (tmp_path / "runs").exists()


def test_losses_that_are_not_numbers_are_refused_by_client(tmp_path: Path) -> None:
    diverging = {"batch_size": 5, "learning_rate": 1e38, "max_grad_norm": None, "optimizer": "sgd"}
    result = invoke("run", write(tmp_path, small_recipe(tmp_path, local=diverging)))
    assert result.exit_code == 4
    assert "non-finite values" in result.output
    assert "local.learning_rate" in result.output
    assert "start a new run" in result.output
    assert "fedfm resume" not in result.output, "it would be the same again"
    events = [json.loads(line) for line in (tmp_path / "runs" / "small" / "events.jsonl").read_text().splitlines()]
    assert {event["kind"] for event in irregular(events)} == {"refused"}


@pytest.mark.slow
def test_t01_a_client_that_raises_is_as_if_it_were_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five sites the third fails in each round; the other run has no third site."""
    natural = {"federation": {"rounds": 2, "quorum": 0.5}, "runtime": {"stack": "off", "processes": 1}}
    recipe = small_recipe(tmp_path, **natural)
    recipe["data"]["client"] = "site"
    train, calls = worker.train_locally, iter(range(100))

    def raising(*arguments: Any, **options: Any) -> Any:
        if next(calls) % 5 == 2:
            raise RuntimeError("the cat sat on the cable")
        return train(*arguments, **options)

    monkeypatch.setattr(worker, "train_locally", raising)
    result = invoke("run", write(tmp_path, recipe))
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in (tmp_path / "runs" / "small" / "events.jsonl").read_text().splitlines()]
    assert [(event["round"], event["client"], event["kind"]) for event in irregular(events)] == [
        (1, "c", "failed"),
        (2, "c", "failed"),
    ]
    assert all("the cat sat on the cable" in event["reason"] for event in irregular(events))

    monkeypatch.undo()
    kept = [line for line in (tmp_path / "train.jsonl").read_text().splitlines() if json.loads(line)["site"] != "c"]
    (tmp_path / "train.jsonl").write_text("\n".join(kept) + "\n")
    assert invoke("run", tmp_path / "recipe.yaml", "name=without").exit_code == 0
    adapters = [tmp_path / "runs" / name / "adapter" / "adapter_model.safetensors" for name in ("small", "without")]
    assert digest(load(adapters[0])) == digest(load(adapters[1]))


def test_b04_clients_with_one_example_or_one_class_take_part(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, federation={"rounds": 1})
    sites = {"one": [{"text": "good", "label": 1}], "alike": [{"text": f"bad {i}", "label": 0} for i in range(4)]}
    named = [{**row, "site": site} for site, its in sites.items() for row in its]
    recipe["data"] |= {"train": rows(tmp_path / "few.jsonl", *named), "client": "site"}
    result = invoke("run", write(tmp_path, recipe), "--json")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in (tmp_path / "runs" / "small" / "events.jsonl").read_text().splitlines()]
    assert [event for event in irregular(events) if event["client"] is not None] == []
    updates = [json.loads(line) for line in (tmp_path / "runs" / "small" / "wire.jsonl").read_text().splitlines()]
    assert sorted(line["clients"][0] for line in updates if line["direction"] == "up") == ["alike", "one"]


@pytest.mark.slow
def test_t04_t19_clients_without_memory_are_asked_again_when_they_have_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(tmp_path, small_recipe(tmp_path, runtime={"stack": "off"}))
    assert invoke("run", recipe, "name=straight").exit_code == 0
    train, left = worker.train_locally, iter(range(4))  # of three clients a round; the quorum is two

    def exhausted(*arguments: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return train(*arguments, **options)

    monkeypatch.setattr(worker, "train_locally", exhausted)
    result = invoke("run", recipe)
    run = tmp_path / "runs" / "small"
    assert result.exit_code == 4, result.output
    assert "only 1 of 3 clients gave a sound update in round 2" in result.output
    assert "failed: out of memory: lower local.batch_size" in result.output
    assert f"once the clients have recovered: fedfm resume {run}" in result.output
    assert (run / "LATEST").read_text() == "round-0001\n"
    monkeypatch.undo()
    assert invoke("resume", run).exit_code == 0
    adapters = [run.parent / name / "adapter" / "adapter_model.safetensors" for name in ("small", "straight")]
    assert digest(load(adapters[0])) == digest(load(adapters[1]))
