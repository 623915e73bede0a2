"""A run's folder: refusals, locking, appending, cutting back, replacing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedfm.errors import RecipeError, StorageError
from fedfm.records.folder import RunFolder

needs_linux = pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs Linux's /dev/full and /proc")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


@pytest.mark.parametrize("name", ["b", "Größe 7 – Kopie", "  b"])
def test_b12_create_makes_parents_and_takes_an_empty_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a" / name
    assert RunFolder.create(path).path == path
    with RunFolder.create(path).lock():
        pass
    RunFolder.create(path)  # what a lock leaves behind is not content


def test_b12_create_refuses_an_existing_run_and_says_what_to_do(folder: RunFolder) -> None:
    folder.write_text("recipe.yaml", "name: run\n")
    with pytest.raises(RecipeError) as caught:
        RunFolder.create(folder.path)
    assert caught.value.problems[0].where == "name"
    assert f"`fedfm resume {folder.path}`" in str(caught.value)
    assert "`name=OTHER`" in str(caught.value)
    assert folder.recipe.read_text() == "name: run\n"


@pytest.mark.parametrize("name", ["", "line\nbreak", "bell\a"])
def test_create_refuses_what_is_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="does not name a folder"):
        RunFolder.create(tmp_path / "x" / name if name else Path())


@pytest.mark.parametrize("inside", ["", "run"])
def test_create_refuses_a_file_in_the_way(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="file is a file"):
        RunFolder.create(tmp_path / "file" / inside)


@needs_linux
def test_create_where_nothing_can_be_created_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="cannot create /proc/run"):
        RunFolder.create("/proc/run")


def test_b12_create_in_a_read_only_folder_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "access", lambda *_: False
    )  # root may write everywhere, so permissions cannot be tested as such
    with pytest.raises(StorageError, match="permission denied"):
        RunFolder.create(tmp_path / "run")


def test_open_checks_that_it_is_a_run(tmp_path: Path, folder: RunFolder) -> None:
    with pytest.raises(RecipeError, match=r"no such folder: .*absent"):
        RunFolder.open(tmp_path / "absent")
    with pytest.raises(RecipeError, match=r"has no recipe\.yaml"):
        RunFolder.open(folder.path)
    folder.write_text(folder.recipe, "name: run\n")
    assert RunFolder.open(folder.path).path == folder.path


def test_every_file_of_a_run_has_its_place() -> None:
    folder = RunFolder("run")
    names = (
        "recipe.yaml env.json answers.jsonl answers-wire.jsonl profile.json forgotten.json evaluation.json "
        "matrix.json samples.json judge.json synthetic.jsonl synthetic.json audit.json clients.json clients experts "
        "heads client_state metrics.jsonl events.jsonl wire.jsonl costs.jsonl privacy.jsonl checkpoints LATEST adapter "
        "model proxy summary.json report.html"
    )
    found = [getattr(folder, name) for name, item in vars(RunFolder).items() if isinstance(item, property)]
    found = [path for path in found if isinstance(path, Path)]
    assert [path.as_posix() for path in found] == [f"run/{name}" for name in names.split()]


@pytest.mark.parametrize(
    ("recipe", "command"),
    [
        ("data: {train: sites}", "fedfm server {} --tls … --allow …"),
        ("data: {train: a.csv}", "fedfm resume {}"),
        ("[", "fedfm resume {}"),
        ("data: 3", "fedfm resume {}"),
    ],
)
def test_a_run_is_continued_by_the_command_that_began_it(folder: RunFolder, recipe: str, command: str) -> None:
    folder.write_text(folder.recipe, recipe)
    assert folder.again == command.format(folder.path)


def test_t24_a_second_holder_is_refused_and_told_who_holds_the_lock(folder: RunFolder) -> None:
    with (
        folder.lock(),
        pytest.raises(RecipeError, match=f"in use by process {os.getpid()}"),
        RunFolder(folder.path).lock(),
    ):
        pass
    with folder.lock():  # released on leaving
        pass


def test_the_lock_of_a_killed_process_is_free(folder: RunFolder) -> None:
    code = "import os, sys; from fedfm.records.folder import RunFolder\nwith RunFolder(sys.argv[1]).lock(): os._exit(9)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code, str(folder.path)], env=environment, check=False).returncode == 9
    assert (folder.path / ".pid").exists()  # left behind
    with folder.lock():
        assert (folder.path / ".pid").read_text() == f"{os.getpid()}\n"


@needs_linux
def test_a_lock_that_cannot_be_written_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="cannot lock /proc/run"), RunFolder("/proc/run").lock():
        pass


def test_an_error_inside_the_lock_is_not_disguised(folder: RunFolder) -> None:
    with pytest.raises(FileNotFoundError), folder.lock():
        raise FileNotFoundError
    with folder.lock():
        pass


def test_appended_records_are_there_at_once(folder: RunFolder) -> None:
    folder.append(folder.metrics, {"round": 1, "loss": math.nan})
    folder.append("metrics.jsonl", {"round": 2, "client": "Å"})
    assert folder.metrics.read_bytes() == '{"round": 1, "loss": null}\n{"round": 2, "client": "Å"}\n'.encode()


def test_a_resumed_run_leaves_the_same_records(folder: RunFolder) -> None:
    folder.append("metrics.jsonl", {"round": 1})
    offsets = folder.offsets()
    assert offsets == {"metrics.jsonl": 13, "wire.jsonl": 0, "costs.jsonl": 0}
    folder.append("metrics.jsonl", {"round": 2})
    folder.append("wire.jsonl", {"round": 2})
    folder.append("privacy.jsonl", {"round": 2})
    folder.append("events.jsonl", {"round": 2})
    with folder.metrics.open("a") as file:
        file.write('{"rou')  # killed while writing
    folder.truncate(json.loads(json.dumps(offsets)))
    assert folder.metrics.read_text() == '{"round": 1}\n'
    assert folder.wire.read_text() == ""
    assert folder.privacy.read_text() == '{"round": 2}\n'  # what was spent stays spent
    assert folder.events.read_text() == '{"round": 2}\n'  # what happened stays happened
    assert folder.offsets() == offsets


def test_records_shorter_than_their_checkpoint_are_damage(folder: RunFolder) -> None:
    folder.append("metrics.jsonl", {"round": 1})
    with pytest.raises(StorageError, match=r"metrics\.jsonl is damaged: 13 bytes, where the checkpoint counts 14"):
        folder.truncate({"metrics.jsonl": 14})
    assert folder.metrics.stat().st_size == 13


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(folder: RunFolder) -> None:
    folder.write_json("summary.json", {"final": {"accuracy": 0.5, "loss": math.inf}})
    assert json.loads(folder.summary.read_text()) == {"final": {"accuracy": 0.5, "loss": None}}
    assert folder.write_text(folder.summary, "new\r\n") == folder.summary
    assert folder.summary.read_bytes() == b"new\r\n"
    assert [path.name for path in folder.path.iterdir()] == ["summary.json"]


def test_a_failed_replacement_leaves_the_old_file(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("summary.json", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*summary\.json: No space left on device"):
        folder.write_text("summary.json", "new")
    assert folder.summary.read_text() == "old"
    assert [path.name for path in folder.path.iterdir()] == ["summary.json"]


@needs_linux
def test_a_full_disk_is_a_storage_error(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedfm.records.folder.open_plain", lambda path, flags: os.open("/dev/full", flags))
    with pytest.raises(StorageError, match=r"cannot write .*metrics\.jsonl: No space left on device"):
        folder.append("metrics.jsonl", {"round": 1})


@pytest.mark.parametrize("name", ["../other.json", "/etc/passwd", "a/b.json"])
def test_nothing_is_written_outside(folder: RunFolder, name: str) -> None:
    with pytest.raises(ValueError, match="not a file directly in"):
        folder.write_text(name, "")


def test_an_existing_run_is_refused_before_anything_is_made(folder: RunFolder, tmp_path: Path) -> None:
    folder.write_text("recipe.yaml", "")
    with pytest.raises(RecipeError, match="exists already"):
        RunFolder.refuse_existing(folder.path)
    RunFolder.refuse_existing(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_a_folder_is_replaced_whole(folder: RunFolder) -> None:
    for content in ("old", "new"):
        with folder.replacing(folder.adapter) as beside:
            assert list(beside.iterdir()) == []
            (beside / "sub").mkdir()
            (beside / "sub" / content).write_text(content)
    assert [path.name for path in (folder.adapter / "sub").iterdir()] == ["new"]
    assert [path.name for path in folder.path.iterdir()] == ["adapter"]


def test_a_failed_replacement_leaves_the_old_folder(folder: RunFolder) -> None:
    with folder.replacing(folder.adapter) as beside:
        (beside / "weights").write_text("old")
    with pytest.raises(StorageError, match=r"cannot write .*adapter: No space left"), folder.replacing(folder.adapter):
        raise OSError(28, "No space left on device")
    with pytest.raises(RecipeError), folder.replacing(folder.adapter):
        raise RecipeError("this tunable cannot be merged")
    assert (folder.adapter / "weights").read_text() == "old"
    assert [path.name for path in folder.path.iterdir()] == ["adapter"]


def test_what_safetensors_cannot_write_is_a_storage_error(folder: RunFolder) -> None:
    """It reports the disk's refusals in an error of its own, which is no OSError."""
    with (
        pytest.raises(StorageError, match=r"cannot write .*adapter: .*No such file"),
        folder.replacing(folder.adapter) as beside,
    ):
        save_file({"weight": torch.zeros(9)}, beside / "absent" / "weights.safetensors")


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_exchange_broken_off_puts_the_old_folder_back(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    with folder.replacing(folder.adapter) as beside:
        (beside / "weights").write_text("old")
    rename = Path.rename

    def stopping(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise stop
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopping)
    with pytest.raises((StorageError, KeyboardInterrupt)), folder.replacing(folder.adapter) as beside:
        (beside / "weights").write_text("new")
    assert (folder.adapter / "weights").read_text() == "old"
    assert [path.name for path in folder.path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("exchanged", [True, False])
def test_what_a_killed_exchange_leaves_does_not_stop_the_next(folder: RunFolder, exchanged: bool) -> None:
    left = folder.path / ".adapter.before"
    left.mkdir()
    (left / "weights").write_text("old")
    if exchanged:
        folder.adapter.mkdir()
        (folder.adapter / "weights").write_text("new")
    with pytest.raises(RecipeError), folder.replacing(folder.adapter):
        raise RecipeError("this tunable cannot be merged")
    assert (folder.adapter / "weights").read_text() == ("new" if exchanged else "old")
    left.mkdir()
    with folder.replacing(folder.adapter) as beside:
        (beside / "weights").write_text("newer")
    assert (folder.adapter / "weights").read_text() == "newer"
    assert [path.name for path in folder.path.iterdir()] == ["adapter"]
