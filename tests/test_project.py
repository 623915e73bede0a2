"""Promises about the whole project: what the source never does, what the package contains, what tests forbid."""

from __future__ import annotations

import ast
import json
import pickle
import re
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedfm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fedfm"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

TRUSTING = re.compile(r"""\b(?:allow_pickle|trust_remote_code)["']?\s*+[=:]\s*+(?!False\b)""")
"""Options that let data become code; ruff has no rule about the values of keywords."""


def test_s01_ruff_refuses_calls_and_imports_that_turn_data_into_code() -> None:
    lines = """import yaml, numpy, pandas, torch
import pickle
import dill as innocent
import marshal
from joblib.externals import loky
from joblib import load
torch.load("x")
from torch import load as torch_load
pandas.read_pickle("x")
eval("x")
exec("x")
yaml.load("x", Loader=yaml.Loader)
yaml.unsafe_load("x")
yaml.full_load("x")
""".splitlines()
    command = [sys.executable, "-m", "ruff", "check", "--output-format=json", "--select=S,TID251", "--stdin-filename"]
    done = subprocess.run(
        [*command, str(PACKAGE / "x.py"), "-"], input="\n".join(lines), cwd=ROOT, capture_output=True, text=True
    )
    refused = {found["location"]["row"] for found in json.loads(done.stdout)}
    assert refused == set(range(2, len(lines) + 1))


def test_s01_s02_no_option_lets_data_become_code() -> None:
    assert [str(path) for path in MODULES if TRUSTING.search(path.read_text(encoding="utf-8"))] == []


def test_the_search_for_such_options_tells_true_from_false() -> None:
    for option in ("allow_pickle=True", "allow_pickle=asked", "trust_remote_code = True", "{'allow_pickle': True}"):
        assert TRUSTING.search(f"read(path, {option})"), option
    for option in ("allow_pickle=False", "trust_remote_code = False", '{"allow_pickle": False}'):
        assert not TRUSTING.search(f"read(path, {option})"), option


def test_every_module_says_what_it_is() -> None:
    assert [str(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_a_class_name_has_one_meaning() -> None:
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_every_room_is_in_the_lists_of_rooms(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [room for room in ROOMS if not re.search(rf"(?<![\w/]){room}/", text)] == []


def test_every_suite_is_in_the_table_of_costs() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("| Suite |")[1].split("\n\n")[0]
    listed = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines() if row.count("|") > 3)))
    suites = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert listed == suites


def test_the_documented_order_of_imports_is_the_checked_one() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = [contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers"]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert "\n".join(f"    {layer}" for layer in layers) in page


def test_there_are_twelve_concepts_each_defined_once() -> None:
    table = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").split("## What happens")[0]
    words = re.findall(r"^\| \*\*([a-z]+)\*\* \|", table, re.MULTILINE)
    assert len(words) == len(set(words)) == 12


def test_the_version_is_the_same_everywhere() -> None:
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation is not None
    assert fedfm.__version__ == PROJECT["version"] == citation.group(1)
    assert f"## [{fedfm.__version__}]" in changelog


def test_s05_s07_constraints_pin_a_fitting_version_of_every_requirement() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    unmet = [
        text
        for text in [*PROJECT["dependencies"], *(text for extra in extras.values() for text in extra)]
        if not (wanted := Requirement(text)).specifier.contains(pins.get(canonicalize_name(wanted.name), "0"))
    ]
    assert unmet == []
    assert list(pins) == sorted(pins)


def test_the_wheel_holds_everything_that_lies_in_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("fedfm/")}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert packed == {path.relative_to(PACKAGE.parent).as_posix() for path in files}
    assert "fedfm/py.typed" in packed
    assert licences


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.getaddrinfo("example.org", 443),
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=0.01),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 53)),
        lambda: pickle.loads(pickle.dumps(Path())),  # noqa: S301 - must fail
    ],
    ids=["name", "connection", "datagram", "pickle"],
)
def test_s01_s03_tests_cannot_reach_the_network_or_unpickle(reach: Any, guard: Any) -> None:
    with pytest.raises(RuntimeError, match=r"socket|unpickled"):
        reach()
    assert guard.seen
    guard.seen.clear()


def test_tests_may_talk_to_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        assert connection.getpeername() == server.getsockname()
