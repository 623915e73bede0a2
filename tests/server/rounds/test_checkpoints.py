"""A checkpoint is complete or absent; a damaged one is detected and skipped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch

from fedfm import __version__
from fedfm import params as tensors
from fedfm.errors import StorageError
from fedfm.params import digest
from fedfm.protocols import State
from fedfm.proxies.base import ModelVersion
from fedfm.records.folder import RunFolder
from fedfm.server.rounds.checkpoints import FORMAT, load_checkpoint, oldest_versions, save_checkpoint
from fedfm.server.rounds.participation import Participation
from fedfm.server.rounds.state import Best, Delivered, RunState, StateVersion


def state(number: int) -> RunState:
    return RunState(
        protocol=State(
            number,
            {"base.w": torch.full((3,), float(number))},
            {"m": {"base.w": torch.full((3,), number + 0.5)}, "v": {"base.w": torch.ones(3)}},
            {"clock": 1.5, "in_flight": [{"client": "a", "version": 1}]},
        ),
        initial={"test": {"loss": 1.1, "accuracy": 0.1 + 0.2}},
        latest={"test": {"loss": 0.9, "accuracy": 0.5}},
        evaluated=number,
        best=Best(1, "test", {"test": {"accuracy": 0.5}}),
        best_params={"base.w": torch.full((3,), 9.0)},
        failed=1,
        refused=2,
        bytes_down=10,
        bytes_up=20,
        samples=30,
        steps=(4, 5),
        seconds={"total": 1.25},
        proxy=ModelVersion(number, {"layer.0.w": torch.ones(2, 3)}, {"layer.0": torch.tensor([0, number])}),
        holders={"a": 0, "b": number},
        activity={"layer.0": torch.tensor([number, 1])},
        contributions={"a": Participation(3, 1, 0, 2, "out of memory")},
        versions={"a": StateVersion(number, "0" * 64), "params/b": StateVersion(1, "f" * 64)},
    )


def save(folder: Path, saved: RunState, offsets: dict[str, int], *, keep: int) -> Path:
    return save_checkpoint(RunFolder(folder), saved, offsets, keep=keep, identity={"recipe": "x"})


def test_round_trip(tmp_path: Path) -> None:
    save(tmp_path, state(7), {"metrics.jsonl": 123}, keep=2)
    loaded = load_checkpoint(RunFolder(tmp_path))
    assert loaded is not None
    got = loaded.state
    assert got.numbers() == state(7).numbers()
    assert got.best == state(7).best
    assert got.protocol.facts == state(7).protocol.facts
    assert got.contributions == state(7).contributions
    assert got.versions == state(7).versions
    assert digest(got.params) == digest(state(7).params)
    assert {part: digest(group) for part, group in got.protocol.server.items()} == {
        part: digest(group) for part, group in state(7).protocol.server.items()
    }
    assert digest(got.best_params) == digest(state(7).best_params)
    assert got.proxy is not None
    assert got.proxy.number == 7
    assert digest(got.proxy.own) == digest({"layer.0.w": torch.ones(2, 3)})
    assert got.proxy.changed["layer.0"].tolist() == [0, 7]
    assert got.holders == {"a": 0, "b": 7}
    assert got.activity["layer.0"].tolist() == [7, 1]
    assert loaded.offsets == {"metrics.jsonl": 123}
    assert loaded.identity == {"recipe": "x"}
    assert loaded.warnings == ()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        save(tmp_path, state(number), {}, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["round-0003", "round-0004"]
    assert (tmp_path / "LATEST").read_text() == "round-0004\n"


def test_no_checkpoint_is_not_an_error(tmp_path: Path) -> None:
    assert load_checkpoint(RunFolder(tmp_path)) is None


def test_everything_is_safetensors_and_json(tmp_path: Path) -> None:
    folder = save(tmp_path, state(1), {}, keep=1)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert set(json.loads((folder / "MANIFEST.json").read_text())) == {
        path.name for path in folder.iterdir() if path.name != "MANIFEST.json"
    }


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_t07_s04_damage_is_noticed_and_the_round_before_is_used(tmp_path: Path, damage: str) -> None:
    save(tmp_path, state(1), {}, keep=2)
    folder = save(tmp_path, state(2), {}, keep=2)
    file = folder / "params.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "flip":  # safetensors itself loads a flipped bit without complaint
        content[-1] ^= 1
        file.write_bytes(content)
        tensors.load(file)
    elif damage == "truncate":
        file.write_bytes(content[:-4])
    else:
        file.unlink()
    loaded = load_checkpoint(RunFolder(tmp_path))
    assert loaded is not None
    assert loaded.state.round == 1
    assert "round-0002 is damaged" in loaded.warnings[0]


def test_no_sound_checkpoint_left_is_said(tmp_path: Path) -> None:
    folder = save(tmp_path, state(1), {}, keep=2)
    (folder / "state.json").write_text("{}")
    with pytest.raises(StorageError, match="no sound checkpoint is left"):
        load_checkpoint(RunFolder(tmp_path))


def test_the_format_of_the_version_before_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfm.server.rounds.checkpoints.FORMAT", FORMAT - 1)
    folder = save(tmp_path, state(1), {}, keep=2)
    monkeypatch.undo()
    (tmp_path / "env.json").write_text(json.dumps({"versions": {"fedfm": "0.0.9"}}))
    with pytest.raises(StorageError) as refused:
        load_checkpoint(RunFolder(tmp_path))
    assert str(refused.value) == (
        f"{folder} was written by fedfm 0.0.9 in checkpoint format {FORMAT - 1}, and fedfm "
        f"{__version__} reads format {FORMAT}: "
        "continue the run with the version that wrote it, or start a new one"
    )


@pytest.mark.parametrize("missing", ["best.safetensors", "state"])
def test_another_format_is_refused_whatever_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr("fedfm.server.rounds.checkpoints.FORMAT", 99)
    folder = save(tmp_path, state(1), {}, keep=2)
    monkeypatch.undo()
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    if missing == "state":  # another layout of state.json
        (folder / "state.json").write_text('{"format": 99}')
        manifest["state.json"] = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    else:
        (folder / missing).unlink()
        del manifest[missing]
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match="in checkpoint format 99"):
        load_checkpoint(RunFolder(tmp_path))


def test_a_damaged_format_is_damage(tmp_path: Path) -> None:
    save(tmp_path, state(1), {}, keep=2)
    file = save(tmp_path, state(2), {}, keep=2) / "state.json"
    file.write_text(file.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'))
    loaded = load_checkpoint(RunFolder(tmp_path))
    assert loaded is not None
    assert loaded.state.round == 1


def test_the_oldest_versions_are_those_of_the_oldest_checkpoint_that_can_be_read(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert oldest_versions(run) == {}
    first = save(tmp_path, state(3), {}, keep=3)
    for number in (4, 5):
        save(tmp_path, state(number), {}, keep=3)
    assert oldest_versions(run) == {"a": 3, "params/b": 1}
    (first / "state.json").write_text('{"format": 4, "sta')
    assert oldest_versions(run) == {"a": 4, "params/b": 1}


def test_t06_a_full_disk_leaves_the_last_checkpoint_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, state(1), {}, keep=2)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save", full)
    with pytest.raises(StorageError, match=r"round-0002: No space left"):
        save(tmp_path, state(2), {}, keep=2)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["round-0001"]
    loaded = load_checkpoint(RunFolder(tmp_path))
    assert loaded is not None
    assert loaded.state.round == 1


def test_a_crash_while_writing_leaves_the_round_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, state(1), {}, keep=2)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tensors, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, state(2), {}, keep=2)
    monkeypatch.undo()
    loaded = load_checkpoint(RunFolder(tmp_path))
    assert loaded is not None
    assert loaded.state.round == 1
    save(tmp_path, state(2), {}, keep=2)
    again = load_checkpoint(RunFolder(tmp_path))
    assert again is not None
    assert again.state.round == 2


def test_rounds_are_ordered_as_numbers(tmp_path: Path) -> None:
    for number in (9998, 9999, 10000):
        save(tmp_path, state(number), {}, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["round-10000", "round-9999"]
    loaded = load_checkpoint(RunFolder(tmp_path))
    assert loaded is not None
    assert loaded.state.round == 10000


@pytest.mark.parametrize("pointer", [None, "", "round-0099"])
def test_a_lost_pointer_does_not_lose_the_run(tmp_path: Path, pointer: str | None) -> None:
    save(tmp_path, state(3), {}, keep=2)
    (tmp_path / "LATEST").unlink()
    if pointer is not None:
        (tmp_path / "LATEST").write_text(pointer)
    loaded = load_checkpoint(RunFolder(tmp_path))
    assert loaded is not None
    assert loaded.state.round == 3


def test_what_is_handed_out_is_the_best_round_only_where_it_is_kept() -> None:
    kept = state(7)
    assert kept.delivered() == Delivered(kept.best_params, 1, {"accuracy": 0.5}, 1)
    last = dataclasses.replace(kept, best_params={})
    assert last.delivered() == Delivered(last.params, 7, last.latest["test"], 7)
