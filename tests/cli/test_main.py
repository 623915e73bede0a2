from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import fedfm
from fedfm.cli.group import CommandGroup
from fedfm.cli.main import main
from fedfm.errors import (
    DataError,
    FedfmError,
    InterruptedRunError,
    Problem,
    RecipeError,
    StorageError,
    TooFewClientsError,
)
from tests.run_folders import write_run

COMMANDS = [
    *("ls", "cp", "show", "check", "data", "proxy"),
    *("run", "resume", "forget", "status", "report", "export", "evaluate", "predict"),
    *("judge", "code", "ask", "audit", "keys", "certs", "server", "client"),
]


def failing(error: BaseException) -> CommandGroup:
    """A command line whose only command raises."""

    @click.group(cls=CommandGroup)
    def cli() -> None:
        pass

    @cli.command()
    def fail(as_json: bool) -> None:
        raise error

    return cli


def test_help_lists_the_commands_in_the_order_of_use() -> None:
    for arguments in ([], ["--help"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0
        listed = [line.split()[0] for line in result.output.partition("Commands:")[2].strip().splitlines()]
        assert listed == COMMANDS
        assert "\n    fedfm run demo                          a first run, offline\n" in result.output
        assert "..." not in result.output.partition("Commands:")[2], "every command's help fits its line"


@pytest.mark.parametrize(
    "command",
    [
        *(name for name in COMMANDS if name not in {"proxy", "keys", "certs"}),
        "proxy inspect",
        "proxy build",
        *(f"{group} {command}" for group in ("keys", "certs") for command in ("new", "fingerprint")),
    ],
)
def test_every_command_has_help_and_json(command: str) -> None:
    result = CliRunner().invoke(main, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "--json" in result.output
    assert "--debug" in result.output


def test_the_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"fedfm, version {fedfm.__version__}\n"


def test_what_needs_no_torch_does_not_wait_for_it(tmp_path: Path) -> None:
    """Help, names, files, keys and records are looked at before anything heavy is imported; one process tries all."""
    ended = write_run(tmp_path / "ended", clients=4, rounds=2).path
    (tmp_path / "wrong.yaml").write_text("a: [", encoding="utf-8")
    answers = [
        (["--help"], 0),
        (["ls"], 0),
        (["run", "--help"], 0),
        (["keys", "new", "--help"], 0),
        (["show", "quick", "local.epochs=3"], 0),
        (["run", "quik"], 2),
        (["run", "quick", "local.epoch=3"], 2),
        (["run", "quick", f"run_dir={ended}"], 2),
        (["check", str(tmp_path / "wrong.yaml")], 2),
        (["data", str(tmp_path / "missing.yaml")], 2),
        (["resume", str(tmp_path / "missing")], 2),
        (["resume", str(ended), "seed=3"], 2),
        (["export", str(tmp_path / "missing")], 2),
        (["status", str(ended)], 0),
    ]
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom fedfm.cli.main import main\nimport fedfm\n"
        "fedfm.run, fedfm.resume, fedfm.Run\n"
        f"for arguments, code in {answers!r}:\n"
        "    result = CliRunner().invoke(main, arguments)\n"
        "    assert result.exit_code == code, (arguments, result.output)\n"
        "    heavy = {'torch', 'transformers', 'peft', 'datasets', 'pandas', 'sklearn', 'flwr', 'cryptography'}\n"
        "    assert not heavy & set(sys.modules), (arguments, heavy & set(sys.modules))\n"
        "import fedfm.server.runs.start\n"
        "assert 'torch' in sys.modules\n"
        "unneeded = {'matplotlib', 'sklearn', 'fedfm.report.page', 'prometheus_client', 'flwr', 'ray', 'tensorboard'}\n"
        "assert not unneeded & set(sys.modules), unneeded & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""


def test_the_module_can_be_run() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "fedfm.cli.main", "exprot"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "No such command 'exprot'. Did you mean 'export'?" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError("wrong"), 2),
        (DataError("wrong"), 3),
        (TooFewClientsError("wrong"), 4),
        (StorageError("wrong"), 5),
        (FedfmError("wrong"), 1),
    ],
)
def test_an_error_is_a_sentence_with_an_exit_code(error: FedfmError, code: int) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == f"error: {error}\n"


def test_an_interruption_is_no_error() -> None:
    result = CliRunner().invoke(failing(InterruptedRunError("stopped in round 3\nresume it with: x")), ["fail"])
    assert result.exit_code == 130
    assert result.stderr == "interrupted: stopped in round 3\nresume it with: x\n"


def test_t08_a_second_ctrl_c_ends_at_once() -> None:
    result = CliRunner().invoke(failing(KeyboardInterrupt()), ["fail"])
    assert result.exit_code == 130
    assert result.stderr.startswith("interrupted: ")


def test_the_unforeseen_shows_no_traceback_unless_asked() -> None:
    result = CliRunner().invoke(failing(ZeroDivisionError("oh")), ["fail"])
    assert result.exit_code == 1
    assert result.stderr == "error: ZeroDivisionError: oh\nThis error is unexpected; --debug shows its traceback\n"


@pytest.mark.parametrize("error", [RecipeError("wrong"), ZeroDivisionError("oh")])
def test_debug_shows_tracebacks(error: Exception) -> None:
    assert CliRunner().invoke(failing(error), ["fail", "--debug"]).exception is error


def test_errors_as_json() -> None:
    error = RecipeError([Problem("a.b", "must be > 0", "-1"), Problem("", "odd")], source="r.yaml")
    result = CliRunner().invoke(failing(error), ["fail", "--json"])
    assert result.exit_code == 2
    assert result.stderr == ""
    assert json.loads(result.stdout) == {
        "error": str(error),
        "exit_code": 2,
        "problems": [
            {"where": "a.b", "message": "must be > 0", "got": "-1"},
            {"where": "", "message": "odd", "got": None},
        ],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exprot", "--json"], "No such command 'exprot'. Did you mean 'export'?"),
        (["run", "--json"], "Missing argument 'RECIPE'."),
        (["ls", "--jsno", "--json"], "No such option '--jsno'. Did you mean '--json'?"),
    ],
)
def test_wrong_usage_as_json(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    told: dict[str, Any] = json.loads(result.stdout)
    assert told == {"error": message, "exit_code": 2, "problems": []}


def test_a_closed_pipe_is_quiet() -> None:
    result = CliRunner().invoke(failing(BrokenPipeError(32, "Broken pipe")), ["fail"])
    assert result.exit_code == 1
    assert result.output == ""
