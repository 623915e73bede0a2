"""Rules for every test: no network, no unpickling, one thread, temporary folders, the same examples each time."""

from __future__ import annotations

import gc
import ipaddress
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.costs import Costs
from tests.thrift import Thrift
from tools.trust import ids_of

hypothesis.settings.register_profile("fedfm", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fedfm")


def _prepare(folder: Path) -> None:
    """Sets the environment before anything reads it: torch and the Hub's client do so when they are imported."""
    for name in [
        name for name in os.environ if name.startswith(("FEDFM_", "HF_", "TRANSFORMERS_")) and name != "FEDFM_MATRIX"
    ]:
        del os.environ[name]
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES"):
        os.environ.pop(name, None)
    os.environ["FEDFM_CACHE"] = str(folder / "fedfm")
    os.environ["HF_HOME"] = str(folder / "huggingface")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["MPLBACKEND"] = "agg"
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


_scratch = tempfile.TemporaryDirectory(prefix="fedfm-tests-")
_prepare(Path(_scratch.name))  # on import: conftests of subfolders may import the Hub's client before any hook runs


def _stop_tracing() -> None:
    """A forked process ends without saving what coverage counts in it; the lines it runs need not be counted."""
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]


os.register_at_fork(after_in_child=_stop_tracing)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", choices=("suite", "file"), help="print CPU and wall seconds of each suite or file")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Thrift())
    if each := config.getoption("--costs"):
        config.pluginmanager.register(Costs(each))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if ids_of(item.name):
            item.add_marker("trust")


def pytest_collection_finish() -> None:
    """Modules and collected tests stay to the end, so that no collection of garbage need go through them again."""
    gc.freeze()


class ForbiddenError(RuntimeError):
    """A test reached the network or read a pickle."""


class Guard:
    """Refuses audit events while `active`; a hook cannot be taken out of the interpreter again, so it is switched."""

    def __init__(self) -> None:
        self.active = False
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and (offence := _offence(event, arguments)):
            self.seen.append(offence)  # remembered, because the code under test might swallow the exception
            raise ForbiddenError(offence)


def _offence(event: str, arguments: tuple[Any, ...]) -> str | None:
    """What is wrong with an audit event, or None."""
    match event, arguments:
        case "pickle.find_class", (module, name):
            return f"unpickled {module}.{name}"
        case (("socket.connect" | "socket.sendto"), (sender, address)):
            if sender.family != socket.AF_UNIX and not _is_this_machine(address[0]):
                return f"{event} {address}"
        case (("socket.getaddrinfo" | "socket.gethostbyname" | "socket.gethostbyaddr"), (host, *_)):
            if not _is_this_machine(host):
                return f"{event} {host}"
    return None


def _is_this_machine(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


_guard = Guard()
sys.addaudithook(_guard)


@pytest.fixture
def guard() -> Guard:
    """The guard of this process, for the tests of the guard itself."""
    return _guard


@pytest.fixture(autouse=True)
def _no_network_no_pickle() -> Iterator[None]:
    _guard.seen.clear()
    _guard.active = True
    yield
    _guard.active = False
    assert not _guard.seen, f"forbidden, though the code under test hid it: {_guard.seen}"


@pytest.fixture(autouse=True)
def methods_given_to_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that a test passes to `fedfm.run` makes its class known to that test alone."""
    from fedfm import registry

    monkeypatch.setattr(registry, "_GIVEN", {group: dict(names) for group, names in registry._GIVEN.items()})


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that only this test uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDFM_CACHE", str(folder))
    return folder
