"""With any damaged file in a run's folder, `status` and `report` give an error that names the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedfm.cli.main import main
from tests.run_folders import write_run

GARBAGE = {
    "an empty object": b"{}\n",
    "a list": b"[1]\n",
    "a number": b"3\n",
    "bytes": bytes(range(256)),
    "a zip": b"PK\x03\x04\n",
    "deep": b"[" * 100_000 + b"\n",
    "deep objects": b'{"a":' * 50_000 + b"\n",
    "digits": b'{"round": ' + b"9" * 5000 + b"}\n",
    "a huge number": b'{"round": 1e999, "split": "test", "kind": "x", "reason": ""}\n',
    "not a number": b'{"round": NaN, "split": "test"}\n',
    "utf-16": '{"round": "1"}\n'.encode("utf-16"),
    "wrong types": b'{"round": 1, "split": 5, "kind": null, "client": {}, "status": [], "versions": 3, "name": 4}\n',
    "text for a figure": b'{"round": 1, "split": "test", "loss": "low", "kind": 3, "direction": "across"}\n',
    "a negative round": b'{"round": -1, "split": "test", "client": null, "kind": "failed"}\n',
    "yaml that cannot be built": b"name: !!int x\n",
    "a folder": None,
}

FILES = (
    *("recipe.yaml", "metrics.jsonl", "events.jsonl", "wire.jsonl"),
    *(
        "summary.json",
        "evaluation.json",
        "matrix.json",
        "samples.json",
        "judge.json",
        "audit.json",
        "clients.json",
        "env.json",
        "profile.json",
    ),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("sound") / "run", clients=3, rounds=1, faults=False).path


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named(sound: Path, tmp_path: Path, file: str, garbage: str) -> None:
    folder, content = tmp_path / "run", GARBAGE[garbage]
    shutil.copytree(sound, folder)
    (folder / file).unlink(missing_ok=True)
    if content is None:
        (folder / file).mkdir()
    else:
        (folder / file).write_bytes(content)
    for command in ("status", "report"):
        result = CliRunner().invoke(main, [command, str(folder)])
        assert result.exit_code in (2, 3, 5), (command, result.output)
        assert file in result.output
        assert "This error is unexpected" not in result.output
        assert len(result.output) < 1000


def test_the_line_is_named(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "run")
    with (tmp_path / "run" / "events.jsonl").open("ab") as file:
        file.write(b'{"kind": "failed", "reason": "", "client": "a"}\n{}\n')
    result = CliRunner().invoke(main, ["status", str(tmp_path / "run")])
    assert result.exit_code == 3
    assert "events.jsonl:2: `kind` is missing" in result.output
