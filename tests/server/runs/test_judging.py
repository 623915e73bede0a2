"""Written answers compared by a judge: real programs, and what they do wrong."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedfm.cli.main import main
from fedfm.errors import DataError, RecipeError
from fedfm.server.runs.bounded_process import play
from fedfm.server.runs.judging import Judged, Pair, figures_of, judge
from tests.run_folders import write_run

PYTHON = [sys.executable, "-I", "-S"]
"""Without site-packages, it starts in some hundredths of a second."""
LONGER = "a, b = len(asked['a']), len(asked['b'])\nprint('a' if a > b else 'b' if b > a else 'tie')"
BY_PROMPT = """
if asked["prompt"] == "exit":
    sys.exit("no credit")
if asked["prompt"] == "chat":
    print("I prefer \\x1b[31mA")
elif asked["prompt"] == "first":
    print("A")
elif asked["prompt"] == "hang":
    time.sleep(60)
elif asked["prompt"] == "flood":
    print("a" * 100_000)
else:
    print("b" if asked["b"] == "good" else "a" if asked["a"] == "good" else "tie")
"""


def program(folder: Path, body: str) -> list[str]:
    path = folder / "judge.py"
    path.write_text(f"import json, sys, time\nasked = json.load(sys.stdin)\n{body}\n")
    return [*PYTHON, str(path)]


def answered(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """A run that wrote: prompt, before, after."""
    run = write_run(folder, clients=2, rounds=1, faults=False)
    keys = ("prompt", "before", "after")
    found = [{"row": number, "answer": None, **dict(zip(keys, row, strict=True))} for number, row in enumerate(rows, 1)]
    run.samples.write_text(json.dumps({"initial": {}, "final": {}, "rows": found}))
    return run.path


def test_both_positions_are_asked_and_failures_are_never_counted(tmp_path: Path) -> None:
    rows = [
        ("x", "bad", "good"), ("x", "good", "bad"), ("x", "poor", "bad"), ("x", "same", "same"), ("first", "u", "vw"),
        ("exit", "u", "v"), ("chat", "u", "v"), ("hang", "u", "v"), ("flood", "u", "v"),
    ]  # fmt: skip
    path = answered(tmp_path / "run", rows)
    found = judge(path, program(tmp_path, BY_PROMPT), timeout_s=1.5)
    counts = ("pairs", "failed", "identical", "wins", "ties", "losses")
    assert [found[key] for key in counts] == [9, 4, 1, 1, 3, 1]
    assert found["win_rate"] == 0.5  # (1 + 3/2) / 5
    assert found["standard_error"] == pytest.approx((0.5 / 4 / 5) ** 0.5)
    assert found["agreement"] == 3 / 4
    assert found["prefers_first"] == 4 / 6
    assert found["prefers_longer"] == 5 / 6
    reasons = [row["failed"] for row in found["verdicts"] if row["failed"]]
    assert reasons == [
        "the judge ended with exit code 1: no credit",
        r"the judge printed `I prefer \x1b[31mA`, not a, b or tie",
        "the judge ran longer than 1.5 s",
        "the judge printed more than 65,536 bytes",
    ]
    assert json.loads((path / "judge.json").read_text()) == found
    page = (path / "report.html").read_text()
    assert "4 of 9 pairs have no verdict and are not counted" in page
    assert "Win rate" in page


def test_two_runs_by_the_command(tmp_path: Path) -> None:
    own = answered(tmp_path / "own", [("x", "-", "long answer"), ("y", "-", "s")])
    other = answered(tmp_path / "other", [("x", "-", "short"), ("y", "-", "shorter")])
    command = shlex.join(program(tmp_path, LONGER))
    result = CliRunner().invoke(main, ["judge", str(own), "--command", command, "--against", str(other)])
    assert result.exit_code == 0, result.output
    assert "Wins / ties / losses: 1 / 0 / 1" in result.output
    assert "Longer preferred: 100 %" in result.output
    different = answered(tmp_path / "different", [("z", "-", "short"), ("y", "-", "shorter")])
    with pytest.raises(RecipeError, match="answered different prompts"):
        judge(own, [*PYTHON, "-c", "0"], against=different)


def test_a_broken_judge_is_refused(tmp_path: Path) -> None:
    path = answered(tmp_path / "run", [("x", "a", "b")] * 9)
    with pytest.raises(RecipeError, match="`no-such-judge` cannot be started: No such file"):
        judge(path, ["no-such-judge"])
    with pytest.raises(DataError, match="no verdict on the first 3 pairs: the judge printed nothing"):
        judge(path, [*PYTHON, "-c", "0"])
    assert not (path / "judge.json").exists()
    (path / "samples.json").unlink()
    with pytest.raises(RecipeError, match=r"run a recipe with evaluate\.generate\.examples"):
        judge(path, [*PYTHON, "-c", "0"])
    assert CliRunner().invoke(main, ["judge", str(path), "--command", "'"]).exit_code == 2


def test_without_any_verdict_rates_are_none() -> None:
    pair = Pair(1, "x", "own", "other", None)
    found = figures_of([Judged(pair, failed="no")])
    assert (found["failed"], found["win_rate"], found["agreement"], found["prefers_first"]) == (1, None, None, None)


def test_a_program_is_ended_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(1.5); open({str(alive)!r}, 'w')"
    body = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {child!r}]); print('done', flush=True)"
    )
    started = time.monotonic()
    ended = play([*PYTHON, "-c", body], b"unread" * 100_000, timeout_s=20, most_bytes=100)
    assert (ended.code, ended.stdout, ended.limit) == (0, b"done\n", None)
    assert time.monotonic() - started < 15, "it does not wait for a child that holds the pipe"
    time.sleep(2)
    assert not alive.exists()
