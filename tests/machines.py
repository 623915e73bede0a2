"""A server and its sites on this machine, each in a process as a user starts it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import yaml

from fedfm.params import digest, load
from tests.small import small_recipe
from tests.started import Started, command, finish

SITES = ("a", "b")
PATIENCE = 240.0


class Process:
    """A command of fedfm, with its output in a file."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *arguments: object,
        before: Sequence[str] = (),
        target: Callable[..., None] = command,
    ) -> None:
        """Starts it.

        Args:
            folder: in which it runs.
            name: of its log.
            arguments: of the target.
            before: the program, with arguments, that starts it; it is then a fresh interpreter.
            target: what runs; `fedfm`, if nothing else is named.
        """
        self.log = folder / f"{name}.log"
        self.log.touch()
        words = [str(argument) for argument in arguments]
        self.process: Started | subprocess.Popen[bytes]
        if not before:
            self.process = Started(folder, self.log, self.log, target, words)
            return
        with self.log.open("wb") as log:
            program = [*before, sys.executable, "-m", "fedfm.cli.main", *words]
            self.process = subprocess.Popen(program, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    @property
    def words(self) -> str:
        return self.log.read_text()

    def says(self, text: str) -> None:
        """Waits for it, however lines are broken."""
        text = " ".join(text.split())
        wait(lambda: text in self._unbroken or self.process.poll() is not None, f"{text!r} in\n{self.words}")
        assert text in self._unbroken

    def ends(self, code: int) -> None:
        """Waits for its end."""
        wait(lambda: self.process.poll() is not None, f"the end of\n{self.words}")
        assert self.process.returncode == code, self.words

    @property
    def _unbroken(self) -> str:
        return " ".join(self.words.split())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


def wait(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, f"did not come: {what}"
        time.sleep(0.1)


def fedfm(folder: Path, *arguments: object) -> Any:
    """What a command prints as JSON."""
    done = finish(command, *map(str, arguments), "--json", folder=folder)
    assert done.code == 0, done.output + done.errors
    return json.loads(done.output)


def adapter(run: Path) -> str:
    """Digest of a run's adapter."""
    return digest(load(run / "adapter" / "adapter_model.safetensors"))


def site_folder(folder: Path, *, rounds: int, quorum: float = 1.0) -> None:
    """Recipe, keys, certificates, and each site's data under columns and classes of its own."""
    changes: dict[str, Any] = {
        "federation": {"per_round": 2, "rounds": rounds, "quorum": quorum},
        "runtime": {"stack": 1},
    }
    recipe = small_recipe(folder, **changes)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["site"] in SITES]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "keys").mkdir()
    for name in SITES:
        lines = [f"{row['text']},{['no', 'yes'][row['label']]}" for row in rows if row["site"] == name]
        (folder / f"{name}.csv").write_text("\n".join(["review,liked", *lines]) + "\n")
        own = {"train": f"{name}.csv", "text": ["review"], "label": "liked", "labels": {"no": "0", "yes": "1"}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))
        fedfm(folder, "keys", "new", f"keys/{name}")
    fedfm(folder, "keys", "new", "stranger")
    fedfm(folder, "certs", "new", "tls", "localhost", "127.0.0.1")


class Machines:
    """A server and its sites in a folder that `site_folder` has made; a context, so that none is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *reason: object) -> None:
        self._stack.close()

    def server(self, log: str, run: str, *overrides: str, target: Callable[..., None] = command) -> Process:
        told = ("--tls", "tls", "--allow", "keys", "--port", self.port)
        return self._start(log, "server", run, *overrides, *told, target=target)

    def sites(self) -> list[Process]:
        """All of them, each with its own data and key."""
        return [self.client(name, f"keys/{name}", f"{name}.yaml", f"site-{name}") for name in SITES]

    def client(self, log: str, key: str, data: str, state: str, *, before: Sequence[str] = ()) -> Process:
        told = ("--ca", "tls/ca.crt", "--key", key, "--data", data, "--state", state)
        return self._start(log, "client", "--server", f"127.0.0.1:{self.port}", *told, before=before)

    def _start(self, log: str, *arguments: object, **how: Any) -> Process:
        process = Process(self.folder, log, *arguments, **how)
        self._stack.callback(process.end)
        return process


def started(of: Process, *words: str) -> list[psutil.Process]:
    """What a process has started, or that has started, whose command line has all these words."""
    found = [each for each in psutil.Process(of.process.pid).children(recursive=True) if _is(each, words)]
    assert found, f"no process of {words}"
    return found


def kill(of: Process, *words: str) -> None:
    """Kills what `started` finds."""
    found = started(of, *words)
    for each in found:
        each.kill()
    psutil.wait_procs(found, timeout=60)


def end_with(of: Process) -> None:
    """Kills a process; asserts that nothing that it has started outlives it."""
    children = psutil.Process(of.process.pid).children(recursive=True)
    assert len(children) >= 2
    of.process.kill()
    of.process.wait(60)
    psutil.wait_procs(children, timeout=60)
    assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def _is(process: psutil.Process, words: tuple[str, ...]) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "fedfm.runtimes.child_guard" not in line and all(word in line for word in words)
