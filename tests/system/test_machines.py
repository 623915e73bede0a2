"""A server and its sites, each the process that a user starts: what is killed comes back, strangers stay out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from fedfm.params import digest, load
from tests.small import small_recipe

pytest.importorskip("flwr", reason="needs the extra `flower`")

pytestmark = pytest.mark.slow

SITES = ("a", "b")
PATIENCE = 240.0


class Process:
    """A command of fedfm's, with what it says in a file."""

    def __init__(self, folder: Path, name: str, *arguments: object) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedfm.cli.main", *map(str, arguments)],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    @property
    def words(self) -> str:
        return self.log.read_text()

    def says(self, text: str) -> None:
        wait(lambda: text in self.words or self.process.poll() is not None, f"{text!r} in\n{self.words}")
        assert text in self.words

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
    command = [sys.executable, "-m", "fedfm.cli.main", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def adapter(run: Path) -> str:
    return digest(load(run / "adapter" / "adapter_model.safetensors"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe, keys, certificates, and each site's data under columns and classes of its own."""
    folder = tmp_path_factory.mktemp("machines")
    changes: dict[str, Any] = {"federation": {"per_round": 2, "rounds": 5}, "runtime": {"stack": 1}}
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
    return folder


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_killed_server_goes_on_with_its_sites_as_if_nothing_had_been(folder: Path, processes: ExitStack) -> None:
    simulated = fedfm(folder, "run", "recipe.yaml", "name=simulated", "data.client=site")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(name: str, *arguments: object) -> Process:
        process = Process(folder, name, *arguments)
        processes.callback(process.end)
        return process

    def client(name: str, key: str, data: str) -> Process:
        told = ("--ca", "tls/ca.crt", "--key", key, "--data", data, "--state", f"client-{name}")
        return start(f"client-{name}", "client", "--server", f"127.0.0.1:{port}", *told)

    served = ("--tls", "tls", "--allow", "keys", "--port", port)
    server = start("server", "server", "recipe.yaml", "name=real", *served)
    clients = [client(name, f"keys/{name}", f"{name}.yaml") for name in SITES]
    stranger = client("stranger", "stranger", "a.yaml")
    server.says("round 2/5")
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) >= 4
    server.process.kill()
    psutil.wait_procs(children, timeout=60)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    again = start("again", "server", "runs/real", *served)
    again.says("accuracy on the test set")
    assert again.process.wait(60) == 0, again.words
    assert adapter(folder / "runs" / "real") == adapter(Path(folder / simulated["folder"]))
    for name, process in zip(SITES, clients, strict=True):
        assert f"as client {name}: 12 examples stay here" in process.words
        left = [json.loads(line) for line in (folder / f"client-{name}" / "wire.jsonl").read_text().splitlines()]
        assert {line["round"] for line in left} == {1, 2, 3, 4, 5}
    assert "the server does not take this site's key" in stranger.words
    assert not (folder / "client-stranger" / "wire.jsonl").exists()
