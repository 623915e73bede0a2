"""Promises about the project as a whole: what the source never does, what the package holds, what the tests forbid."""

from __future__ import annotations

import ast
import pickle
import re
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
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

BANNED_IMPORTS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
BANNED_CALLS = {"eval", "exec", "torch.load", "torch.save", "pandas.read_pickle", "pd.read_pickle"}
HARMLESS = {"joblib.cpu_count"}
"""Names that may be taken from a module whose others may not."""
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}


def offences(source: str) -> Iterator[str]:
    """What in a module could turn data into code."""
    tree = ast.parse(source)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    safe_loaders = SAFE_LOADERS | {node.name for node in classes if SAFE_LOADERS & set(map(ast.unparse, node.bases))}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (f"import {name.name}" for name in names if name.name.split(".")[0] in BANNED_IMPORTS)
            case ast.ImportFrom(module=str(module), names=names):
                taken = {f"{module}.{name.name}" for name in names} - HARMLESS
                if (taken and module.split(".")[0] in BANNED_IMPORTS) or taken & BANNED_CALLS:
                    yield ast.unparse(node)
            case ast.Call():
                if reason := _why_unsafe(node, safe_loaders):
                    yield f"{ast.unparse(node)}: {reason}"


def _why_unsafe(call: ast.Call, safe_loaders: set[str]) -> str | None:
    name = ast.unparse(call.func)
    keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name in BANNED_CALLS:
        return "banned"
    if name.startswith("yaml.") and "load" in name and not name.startswith("yaml.safe_load"):
        loader = keywords.get("Loader") or [*map(ast.unparse, call.args), ""][1]
        return None if loader in safe_loaders and name in {"yaml.load", "yaml.load_all"} else "no safe loader"
    if any(keywords.get(option, "False") != "False" for option in ("allow_pickle", "trust_remote_code")):
        return "trusts what it reads"
    return None


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_data_can_become_code(module: Path) -> None:
    assert list(offences(module.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import dill as innocent",
        "from joblib.externals import loky",
        "from joblib import cpu_count, load",
        "torch.load(path)",
        "from torch import load",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "class Loader(yaml.FullLoader): pass\nyaml.load(text, Loader)",
        "yaml.unsafe_load(text)",
        "numpy.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=asked)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_the_search_for_such_code_finds_it(source: str) -> None:
    assert list(offences(source))


@pytest.mark.parametrize(
    "source",
    [
        "numpy.load(path, allow_pickle=False)",
        "model.eval()",
        "from joblib import cpu_count",
        "yaml.safe_load(text)",
        "class Loader(yaml.SafeLoader): pass\nyaml.load(text, Loader)",
    ],
)
def test_the_search_for_such_code_leaves_the_rest_alone(source: str) -> None:
    assert not list(offences(source))


def test_every_module_says_what_it_is() -> None:
    assert [str(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_the_version_is_the_same_everywhere() -> None:
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation is not None
    assert fedfm.__version__ == PROJECT["version"] == citation.group(1)
    assert f"## [{fedfm.__version__}]" in changelog


def test_constraints_pin_a_fitting_version_of_every_requirement() -> None:
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
def test_tests_cannot_reach_the_network_or_unpickle(reach: Any, guard: Any) -> None:
    with pytest.raises(RuntimeError, match=r"socket|unpickled"):
        reach()
    assert guard.seen
    guard.seen.clear()


def test_tests_may_talk_to_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        assert connection.getpeername() == server.getsockname()
