"""A run's folder from another person: nothing outside of it is read, written or deleted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fedfm import run
from fedfm.errors import StorageError
from fedfm.recipe import load_recipe
from fedfm.records.status import run_status
from fedfm.report.page import write_report
from fedfm.server import Run, export, resume
from fedfm.server.rounds.checkpoints import FORMAT, MANIFEST
from tests.small import small_recipe

DEEDS: Mapping[str, Callable[[Path], Any]] = {
    "resume": lambda path: resume(path, ["federation.rounds=2"]),
    "report": write_report,
    "export": export,
    "status": run_status,
    "Run": Run,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = small_recipe(folder, federation={"clients": 2, "per_round": 2, "rounds": 1})
    return run(load_recipe(recipe)).path


@pytest.fixture
def foreign(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run with one checkpoint, beside what belongs to its victim."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "round-0000")
    (tmp_path / "victim" / "round-0000").mkdir(parents=True)
    (tmp_path / "victim" / "round-0000" / "letter").write_text("dear all")
    (tmp_path / "victim.txt").write_text("dear all")
    return tmp_path / "run"


def victims(foreign: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in foreign.parent.glob("victim*/**/*") if path.is_file()} | {
        "file": (foreign.parent / "victim.txt").read_text()
    }


@pytest.mark.parametrize(
    "place",
    [
        "recipe.yaml", "metrics.jsonl", "wire.jsonl", "events.jsonl", "env.json", "clients.json", "summary.json",
        "report.html", "LATEST", ".lock", ".pid", ".report.html.partial", ".summary.json.partial", "privacy.jsonl",
        "profile.json", "evaluation.json", "samples.json",
        "checkpoints/round-0001/state.json", "checkpoints/round-0001/params.safetensors",
        "adapter/adapter_model.safetensors", "model/config.json", "proxy/proxy.json", "tensorboard/events",
    ],
)  # fmt: skip
def test_no_link_to_a_file_is_followed(place: str, foreign: Path) -> None:
    path, before = foreign / place, victims(foreign)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(foreign.parent / "victim.txt")
    refused(foreign, "is a symbolic link")
    assert victims(foreign) == before
    assert path.is_symlink()


@pytest.mark.parametrize(
    "place",
    [
        "checkpoints", "checkpoints/round-0000", "checkpoints/round-0001", "adapter", "model", "proxy", "tensorboard",
        ".adapter.partial", ".adapter.before", "checkpoints/.round-0002.partial", "checkpoints/.round-0002.before",
    ],
)  # fmt: skip
def test_no_link_to_a_folder_is_followed(place: str, foreign: Path) -> None:
    path, before = foreign / place, victims(foreign)
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(foreign.parent / "victim", target_is_directory=True)
    refused(foreign, "is a symbolic link")
    assert victims(foreign) == before


@pytest.mark.parametrize("place", ["metrics.jsonl", "events.jsonl", "LATEST", "checkpoints/round-0001/state.json"])
def test_no_pipe_is_waited_for(place: str, foreign: Path) -> None:
    (foreign / place).unlink()
    os.mkfifo(foreign / place)
    refused(foreign, "is a named pipe")


@pytest.mark.parametrize("place", ["metrics.jsonl", ".lock", "report.html", "summary.json", "events.jsonl"])
def test_no_folder_is_taken_for_a_file(place: str, foreign: Path) -> None:
    (foreign / place).unlink(missing_ok=True)
    (foreign / place).mkdir()
    refused(foreign, "is a folder, but must be a file")


@pytest.mark.parametrize("place", ["checkpoints", "adapter", "model"])
def test_no_file_is_taken_for_a_folder(place: str, foreign: Path) -> None:
    shutil.rmtree(foreign / place, ignore_errors=True)
    (foreign / place).write_text("")
    refused(foreign, "is a file, but must be a folder")


def refused(foreign: Path, words: str) -> None:
    for deed in DEEDS.values():
        with pytest.raises(StorageError, match=words):
            deed(foreign)


@pytest.mark.parametrize("record", ["metrics.jsonl", "wire.jsonl", "events.jsonl"])
def test_a_record_that_has_another_name_is_not_cut_or_written(record: str, foreign: Path) -> None:
    other = foreign.parent / "other"
    with (foreign / record).open("ab") as lines:
        lines.write(b'{"round": 2}\n')
    os.link(foreign / record, other)
    before = other.read_bytes()
    with pytest.raises(StorageError, match="several hard links"):
        resume(foreign, ["federation.rounds=2"])
    assert other.read_bytes() == before


@pytest.mark.parametrize("pointer", ["../../victim", "/etc", "round-0001/../..", "checkpoints/round-0001"])
def test_a_pointer_to_elsewhere_is_refused(pointer: str, foreign: Path) -> None:
    (foreign / "LATEST").write_text(pointer + "\n")
    for deed in (DEEDS["resume"], DEEDS["export"]):
        with pytest.raises(StorageError, match="LATEST names no checkpoint"):
            deed(foreign)


def manifest(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    changed = change(content)
    (folder / MANIFEST).write_text(json.dumps(content if changed is None else changed))


MANIFESTS: Mapping[str, tuple[Callable[[dict[str, str]], Any], str]] = {
    "empty": (lambda content: {}, "does not name best.safetensors"),
    "a list": (lambda content: [], "is no table of files"),
    "without the state": (
        lambda content: {key: content[key] for key in content if "state" not in key},
        "name state.json",
    ),
    "with a file that is not there": (lambda content: content | {"more": "0" * 64}, "more is missing"),
    "with a path": (lambda content: content | {"../../recipe.yaml": "0" * 64}, "recipe.yaml is missing"),
    "with a number": (lambda content: content | {"state.json": 5}, "state.json does not match"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_s04_a_manifest_names_exactly_what_is_there(kind: str, foreign: Path) -> None:
    change, words = MANIFESTS[kind]
    manifest(foreign / "checkpoints" / "round-0001", change)
    for deed in (DEEDS["resume"], DEEDS["export"]):
        with pytest.raises(StorageError, match=f"no sound checkpoint is left: .*{words}"):
            deed(foreign)


def test_a_file_that_no_manifest_names_is_refused(foreign: Path) -> None:
    (foreign / "checkpoints" / "round-0001" / "adapter_config.json").write_text("{}")
    with pytest.raises(StorageError, match=r"does not name adapter_config\.json"):
        export(foreign)


@pytest.mark.parametrize(
    "state",
    [
        "{}", "[]", "5", "[" * 5000, '{"format": FMT}',
        '{"format": FMT, "offsets": {"metrics.jsonl": -1}, "identity": {}, "state": {}}',
        '{"format": FMT, "offsets": [], "identity": {}, "state": {"proxy_version": null, "best": null, "steps": []}}',
    ],
)  # fmt: skip
def test_a_state_that_is_none_is_refused_whatever_its_manifest_says(state: str, foreign: Path) -> None:
    folder, state = foreign / "checkpoints" / "round-0001", state.replace("FMT", str(FORMAT))
    (folder / "state.json").write_text(state)
    manifest(folder, lambda content: content | {"state.json": sha256(state.encode()).hexdigest()})
    for deed in (DEEDS["resume"], DEEDS["export"]):
        with pytest.raises(StorageError, match="no sound checkpoint is left"):
            deed(foreign)


def test_a_checkpoint_under_the_name_of_another_round_is_refused(foreign: Path) -> None:
    (foreign / "checkpoints" / "round-0001").rename(foreign / "checkpoints" / "round-0009")
    with pytest.raises(StorageError, match="it is of round 1"):
        export(foreign)


def test_entries_of_other_names_are_no_checkpoints(foreign: Path) -> None:
    for name in ("round-", "round-x", "round-0001 copy", "notes", "round-٠٠٠٩"):
        (foreign / "checkpoints" / name).mkdir()
    assert resume(foreign, ["federation.rounds=2"]).summary["rounds"] == 2


def test_a_copy_goes_on_and_its_pid_file_is_only_a_number(foreign: Path) -> None:
    (foreign / ".pid").write_text("\x1b[2J" * 1000)
    assert run_status(foreign)["state"] == "completed"
    assert resume(foreign, ["federation.rounds=2"]).summary["rounds"] == 2


def test_a_manifest_that_is_nested_too_deeply_is_refused(foreign: Path) -> None:
    for folder in (foreign / "checkpoints").iterdir():
        (folder / MANIFEST).write_text("[" * 5000)
    with pytest.raises(StorageError, match="no sound checkpoint is left"):
        export(foreign)
